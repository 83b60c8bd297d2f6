// Stays up: one line of JSON in per call, one line of JSON out.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
)

type request struct {
	Input struct {
		Name string `json:"name"`
	} `json:"input"`
}

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for calls := 1; ; calls++ {
		var call request
		if err := in.Decode(&call); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		answer := map[string]any{"error": "give the input a name"}
		if call.Input.Name != "" {
			message := fmt.Sprintf("Hello, %s!", call.Input.Name)
			answer = map[string]any{"output": map[string]any{"message": message, "calls": calls}}
		}
		if err := out.Encode(answer); err != nil {
			log.Fatal(err)
		}
	}
}

// The input is in the file named by the first argument; the last line of the output is the result.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
)

type event struct {
	Name string `json:"name"`
}

func main() {
	log.SetFlags(0)
	input, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	greeted := event{Name: "world"}
	if err := json.Unmarshal(input, &greeted); err != nil {
		log.Fatal(err)
	}
	log.Print("saying hello")
	answer := map[string]string{"message": fmt.Sprintf("Hello, %s!", greeted.Name)}
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		log.Fatal(err)
	}
}

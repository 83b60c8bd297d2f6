// A function as people write it in Go: asks a server over HTTPS, and answers with what that said, or why it
// is not believed. Which authorities count, the system and SSL_CERT_FILE say.
package main

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

type event struct {
	URL string `json:"url"`
}

type answer struct {
	Body  string `json:"body,omitempty"`
	Error string `json:"error,omitempty"`
}

func ask(url string) answer {
	client := http.Client{Timeout: time.Minute}
	response, err := client.Get(url)
	if err != nil {
		return answer{Error: err.Error()}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{Body: string(body)}
}

func main() {
	log.SetFlags(0)
	if len(os.Args) == 5 && os.Args[1] == "serve" {
		serve(os.Args[2], os.Args[3], os.Args[4])
	}
	input, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	var asked event
	if err := json.Unmarshal(input, &asked); err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(ask(asked.URL)); err != nil {
		log.Fatal(err)
	}
}

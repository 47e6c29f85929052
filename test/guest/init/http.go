//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"
	"time"
)

// environment are the variables that describe Services, as the node handed them over.
const environment = "/sys/firmware/qemu_fw_cfg/by_name/opt/dev.portico/environment/raw"

// serveHTTP answers on both ports until one of them fails.
func serveHTTP(host *identity) {
	answer := http.NewServeMux()
	answer.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, host.get())
	})
	answer.HandleFunc("GET /remote", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.RemoteAddr)
	})
	answer.HandleFunc("GET /environment", func(w http.ResponseWriter, _ *http.Request) {
		text, err := os.ReadFile(environment)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_, _ = w.Write(text) // a client that has gone wants no answer
	})
	client := http.NewServeMux()
	client.HandleFunc("POST /run", run)

	failed := make(chan error, 2)
	go func() { failed <- listen(answerAddr, answer) }()
	go func() { failed <- listen(clientAddr, client) }()
	log.Printf("HTTP: %v", <-failed)
}

func listen(addr string, h http.Handler) error {
	s := &http.Server{Addr: addr, Handler: h, ReadHeaderTimeout: 10 * time.Second}
	return s.ListenAndServe()
}

// run makes requests from inside the guest: POST /run?url=U&n=300&family=4.
func run(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	n := 1
	if s := q.Get("n"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil || n < 1 || n > 100_000 {
			http.Error(w, "n must be a number from 1 to 100000", http.StatusBadRequest)
			return
		}
	}
	result, err := fetch(r.Context(), q.Get("url"), n, q.Get("family"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(result) // a client that has gone wants no answer
}

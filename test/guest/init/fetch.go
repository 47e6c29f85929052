//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Result is what a run of requests showed.
type Result struct {
	Answers  map[string]int `json:"answers"`  // by body, without surrounding space
	Failures int            `json:"failures"` // no answer, or a status other than 200
	Errors   []string       `json:"errors,omitempty"`
	Seconds  float64        `json:"seconds"`
}

const (
	requestTimeout = 5 * time.Second
	keepErrors     = 5 // distinct ones; the rest is only counted
	maxBody        = 64 << 10
)

// fetch gets a URL n times, one after another, each on a connection of its own.
// family is "4", "6" or "" for either.
func fetch(ctx context.Context, address string, n int, family string) (Result, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return Result{}, fmt.Errorf("url must be like http://host:port/, not %q", address)
	}
	if family != "" && family != "4" && family != "6" {
		return Result{}, fmt.Errorf("family must be 4 or 6, not %q", family)
	}
	dialer := &net.Dialer{}
	client := &http.Client{Timeout: requestTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialer.DialContext(ctx, network+family, addr)
		},
	}}
	start := time.Now()
	result := Result{Answers: map[string]int{}}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		body, err := get(ctx, client, address)
		if err != nil {
			result.Failures++
			if len(result.Errors) < keepErrors {
				result.Errors = appendNew(result.Errors, err.Error())
			}
			continue
		}
		result.Answers[body]++
	}
	result.Seconds = time.Since(start).Seconds()
	return result, nil
}

func get(ctx context.Context, client *http.Client, address string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s", resp.Status)
	}
	return strings.TrimSpace(string(body)), nil
}

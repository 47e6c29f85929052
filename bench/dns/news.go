package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"portico.dev/portico/bench/apiclient"
)

// newsNamespace holds the Services whose way is timed.
const (
	newsNamespace = "ns-0"
	newsPath      = "/api/v1/namespaces/" + newsNamespace + "/services"
)

// newsPause lets API and server finish with one before the next.
const newsPause = 10 * time.Millisecond

// news times how long after its watch event, which is about to reach the server, a new
// Service's name has an address.
func (s *subject) news(ctx context.Context, a *api, n int) ([]time.Duration, error) {
	writer, err := apiclient.Dial(ctx, a.Access, false)
	if err != nil {
		return nil, err
	}
	defer writer.Close()
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", "127.0.0.1:"+s.port)
	if err != nil {
		return nil, err
	}
	defer conn.Close()

	run := time.Now().UnixNano()
	var all []time.Duration
	for i := range n {
		name := fmt.Sprintf("news-%d-%d", run, i)
		took, err := a.timeOne(ctx, writer, conn, name)
		if err != nil {
			return nil, fmt.Errorf("time the way of %s: %w", name, err)
		}
		all = append(all, took)
		if err := writer.Must("DELETE", newsPath+"/"+name, "", nil, &bytes.Buffer{}); err != nil {
			return nil, err
		}
		time.Sleep(newsPause)
	}
	return all, nil
}

// timeOne times one. The API stands still from the event to the answer: what it does after it
// has told of a change happens elsewhere on a cluster, and a kernel that doesn't interrupt
// itself (PREEMPT_NONE) would let it finish before who is woken, whatever its priority.
func (a *api) timeOne(ctx context.Context, writer *apiclient.Client, conn net.Conn, name string) (_ time.Duration, err error) {
	question, err := pack(name + "." + newsNamespace + ".svc." + zone)
	if err != nil {
		return 0, err
	}
	var frozen error
	arrived := a.tap.expect(name, func() { frozen = a.Freeze() })
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	made := make(chan struct{})
	go func() {
		defer close(made)
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":%q},"spec":{"ports":[{"port":80}]}}`, name)
		if err := writer.Must("POST", newsPath, "application/json", []byte(body), &bytes.Buffer{}); err != nil {
			cancel(err)
		}
	}()
	defer func() { <-made }()
	begin, err := a.tap.await(ctx, arrived)
	defer func() { err = errors.Join(err, frozen, a.Thaw()) }()
	if err != nil {
		return 0, err
	}
	buffer := make([]byte, 1500)
	for ctx.Err() == nil {
		answers, err := ask(conn, question, buffer)
		if err != nil {
			return 0, err
		}
		if answers > 0 {
			return time.Since(begin), nil
		}
		if time.Since(begin) > startPatience {
			return 0, fmt.Errorf("no address after %v", startPatience)
		}
	}
	return 0, context.Cause(ctx)
}

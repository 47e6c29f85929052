package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/process"
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
func (s *subject) news(ctx context.Context, a *api, n int) (all []time.Duration, err error) {
	writer, err := apiclient.Dial(ctx, a.Access, false)
	if err != nil {
		return nil, err
	}
	defer writer.Close()
	conn, err := blocking(s.port)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	back, err := process.Apart(append(a.Processes(), s.Process)...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, back()) }()

	run := time.Now().UnixNano()
	for i := range n {
		name := fmt.Sprintf("news-%d-%d", run, i)
		took, err := timeOne(ctx, a.tap, writer, conn, name)
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

func timeOne(ctx context.Context, t *tap, writer *apiclient.Client, conn io.ReadWriter, name string) (time.Duration, error) {
	question, err := pack(name + "." + newsNamespace + ".svc." + zone)
	if err != nil {
		return 0, err
	}
	arrived := t.expect(name)
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
	begin, err := t.await(ctx, arrived)
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

// blocking connects to the server by a socket whose reads block their thread: the client is
// measured with what it asks, and shall not wait for another thread to wake it.
func blocking(port string) (*os.File, error) {
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", port, err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	conn := os.NewFile(uintptr(fd), "client")
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}),
		unix.Connect(fd, &unix.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the server: %w", err), conn.Close())
	}
	return conn, nil
}

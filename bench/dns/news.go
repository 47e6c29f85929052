package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/http2"

	"portico.dev/portico/bench/apiclient"
)

// newsNamespace holds the Services whose way is timed.
const newsNamespace = "ns-0"

// news times how long after its watch event a new Service's name has an address. The
// event is that of a watch of ours, which gets it when the server's does; the server may
// be ahead, so that the least figure is one query's way.
func (s *subject) news(ctx context.Context, a *api, n int) ([]time.Duration, error) {
	watch, err := apiclient.Dial(ctx, a.access, false)
	if err != nil {
		return nil, err
	}
	defer watch.Close()
	if _, err := watch.Open("GET", "/api/v1/namespaces/"+newsNamespace+"/services?watch=1&labelSelector=news", "", nil); err != nil {
		return nil, err
	}
	writer, err := apiclient.Dial(ctx, a.access, false)
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
		question, err := pack(name + "." + newsNamespace + ".svc." + zone)
		if err != nil {
			return nil, err
		}
		type timed struct {
			took time.Duration
			err  error
		}
		done := make(chan timed, 1)
		go func() {
			took, err := timeOne(ctx, watch, conn, []byte(name), question)
			done <- timed{took, err}
		}()
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":%q,"labels":{"news":""}},"spec":{"ports":[{"port":80}]}}`, name)
		path := "/api/v1/namespaces/" + newsNamespace + "/services"
		if err := writer.Must("POST", path, "application/json", []byte(body), &bytes.Buffer{}); err != nil {
			watch.Close() // ends the other, too
			<-done
			return nil, err
		}
		t := <-done
		if t.err != nil {
			return nil, fmt.Errorf("time the way of %s: %w", name, t.err)
		}
		all = append(all, t.took)
		if err := writer.Must("DELETE", path+"/"+name, "", nil, &bytes.Buffer{}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func timeOne(ctx context.Context, watch *apiclient.Client, conn net.Conn, name, question []byte) (time.Duration, error) {
	if err := watch.SetDeadline(time.Now().Add(apiclient.CallTimeout)); err != nil {
		return 0, err
	}
	for {
		frame, err := watch.Next()
		if err != nil {
			return 0, err
		}
		if data, ok := frame.(*http2.DataFrame); ok && bytes.Contains(data.Data(), name) {
			break
		}
	}
	begin := time.Now()
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

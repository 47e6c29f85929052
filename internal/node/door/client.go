package door

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxError is how much of a refusal's text is read.
const maxError = 4 << 10

// StatusError is a door's refusal.
type StatusError struct {
	Code    int // of HTTP: 403, 404, 409, ...
	Message string
}

func (e *StatusError) Error() string { return e.Message }

// DialConsole connects to an instance's serial console through the door at addr
// (host:port). The context bounds the connecting only. config holds the client's
// certificate and the authority that signed the node's.
func DialConsole(ctx context.Context, addr string, config *tls.Config, namespace, instance string) (net.Conn, error) {
	conn, err := dialConsole(ctx, addr, config, namespace, instance)
	if err != nil {
		return nil, fmt.Errorf("open the console of %s/%s at the node's door %s: %w", namespace, instance, addr, err)
	}
	return conn, nil
}

func dialConsole(ctx context.Context, addr string, config *tls.Config, namespace, instance string) (_ net.Conn, err error) {
	if config != nil {
		config = config.Clone()
		config.NextProtos = []string{"http/1.1"}
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			conn.Close()
		}
	}()
	u := "https://" + addr + "/console/" + url.PathEscape(namespace) + "/" + url.PathEscape(instance)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", Protocol)
	if err := r.Write(conn); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxError))
		return nil, &StatusError{resp.StatusCode, strings.TrimSpace(string(text))}
	}
	return &stream{conn, in}, nil
}

// stream is a connection whose first bytes may have been read with the headers.
type stream struct {
	net.Conn
	in *bufio.Reader
}

func (s *stream) Read(p []byte) (int, error) { return s.in.Read(p) }

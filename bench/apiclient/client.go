package apiclient

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Access is how clients reach and convince a server.
type Access struct {
	Address string // host:port
	CA      []byte // PEM
	Cert    []byte // PEM, of an administrator
	Key     []byte // PEM
	Token   string // of a service account, once there is one
}

const (
	// window is how much a server may send before we answer: more than any phase
	// receives on one stream, so that flow control never decides a figure.
	window = 1 << 30
	// giveBack is when a connection's window is filled up again.
	giveBack = 1 << 24
	// CallTimeout bounds one request; a server that needs longer has failed.
	CallTimeout = time.Minute
)

// Client is one HTTP/2 connection (RFC 9113) with one request at a time, or some
// watches. It is made of frames instead of net/http, whose goroutines per connection and
// stream would cost as much processor as the servers that are measured.
type Client struct {
	conn    *tls.Conn
	out     *bufio.Writer
	framer  *http2.Framer
	fields  bytes.Buffer
	encoder *hpack.Encoder

	authority string
	token     string
	last      uint32 // stream
	send      int64  // how much the server takes now
	received  uint32 // not given back yet
}

// Dial connects with the administrator's certificate, or with the token where byToken.
func Dial(ctx context.Context, a Access, byToken bool) (*Client, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(a.CA) {
		return nil, fmt.Errorf("connect to %s: no certificate in the authority's file", a.Address)
	}
	config := &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}, ServerName: "localhost", MinVersion: tls.VersionTLS13}
	c := &Client{authority: a.Address, last: 1, send: 1<<16 - 1}
	switch {
	case byToken:
		c.token = a.Token
	case len(a.Cert) > 0:
		pair, err := tls.X509KeyPair(a.Cert, a.Key)
		if err != nil {
			return nil, fmt.Errorf("use the administrator's certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	conn, err := (&tls.Dialer{Config: config, NetDialer: &net.Dialer{Timeout: 5 * time.Second}}).DialContext(ctx, "tcp", a.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", a.Address, err)
	}
	c.conn = conn.(*tls.Conn)
	c.out = bufio.NewWriterSize(c.conn, 16<<10)
	c.framer = http2.NewFramer(c.out, bufio.NewReaderSize(c.conn, 64<<10))
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.framer.SetReuseFrames()
	c.encoder = hpack.NewEncoder(&c.fields)
	if err := c.greet(); err != nil {
		c.Close()
		return nil, fmt.Errorf("greet %s: %w", a.Address, err)
	}
	return c, nil
}

// Close ends the connection; what reads from it gets an error.
func (c *Client) Close() { c.conn.Close() }

// SetDeadline bounds Open and Next; the zero time doesn't.
func (c *Client) SetDeadline(t time.Time) error { return c.conn.SetDeadline(t) }

func (c *Client) greet() error {
	if _, err := c.out.WriteString(http2.ClientPreface); err != nil {
		return err
	}
	if err := c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}, http2.Setting{ID: http2.SettingEnablePush, Val: 0}); err != nil {
		return err
	}
	if err := c.framer.WriteWindowUpdate(0, window); err != nil {
		return err
	}
	return c.out.Flush()
}

// Open sends a request and returns its stream.
func (c *Client) Open(method, path, contentType string, body []byte) (uint32, error) {
	for int64(len(body)) > c.send {
		if _, err := c.Next(); err != nil {
			return 0, err
		}
	}
	c.fields.Reset()
	c.field(":method", method)
	c.field(":scheme", "https")
	c.field(":authority", c.authority)
	c.field(":path", path)
	c.field("accept", "application/json")
	c.field("user-agent", "portico-bench")
	if c.token != "" {
		c.field("authorization", "Bearer "+c.token)
	}
	if len(body) > 0 {
		c.field("content-type", contentType)
		c.field("content-length", strconv.Itoa(len(body)))
	}
	stream := c.last
	c.last += 2
	err := c.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: c.fields.Bytes(), EndHeaders: true, EndStream: len(body) == 0,
	})
	if err == nil && len(body) > 0 {
		c.send -= int64(len(body))
		err = c.framer.WriteData(stream, true, body)
	}
	if err == nil {
		err = c.out.Flush()
	}
	return stream, err
}

// field adds one. Writing to a buffer doesn't fail.
func (c *Client) field(name, value string) {
	_ = c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: false})
}

// Next reads a frame and answers those that are about the connection. The frame is
// good until the next call.
func (c *Client) Next() (http2.Frame, error) {
	frame, err := c.framer.ReadFrame()
	if err != nil {
		return nil, err
	}
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			err = c.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			err = c.framer.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			c.send += int64(f.Increment)
		}
		return frame, nil
	case *http2.DataFrame:
		if c.received += f.Length; c.received < giveBack {
			return frame, nil
		}
		err = c.framer.WriteWindowUpdate(0, c.received)
		c.received = 0
	case *http2.GoAwayFrame:
		// Without an error it still answers what it was asked, then closes: Kubernetes
		// does so with strangers.
		if f.ErrCode == http2.ErrCodeNo {
			return frame, nil
		}
		return nil, fmt.Errorf("the server closes the connection: %v", f.ErrCode)
	case *http2.RSTStreamFrame:
		return nil, fmt.Errorf("the server ended a stream: %v", f.ErrCode)
	default:
		return frame, nil
	}
	if err == nil {
		err = c.out.Flush()
	}
	return frame, err
}

// Call is one request and its answer, which is good until the next call.
func (c *Client) Call(method, path, contentType string, body []byte, answer *bytes.Buffer) (status int, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(CallTimeout)); err != nil {
		return 0, err
	}
	stream, err := c.Open(method, path, contentType, body)
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", method, path, err)
	}
	answer.Reset()
	for {
		frame, err := c.Next()
		if err != nil {
			return 0, fmt.Errorf("%s %s: %w", method, path, err)
		}
		ended := false
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream {
				status, _ = strconv.Atoi(f.PseudoValue("status"))
				ended = f.StreamEnded()
			}
		case *http2.DataFrame:
			if f.StreamID == stream {
				answer.Write(f.Data())
				ended = f.StreamEnded()
			}
		}
		if ended {
			return status, nil
		}
	}
}

// Must is Call, and an error where the answer isn't a success.
func (c *Client) Must(method, path, contentType string, body []byte, answer *bytes.Buffer) error {
	status, err := c.Call(method, path, contentType, body, answer)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("%s %s: %d %s", method, path, status, answer)
	}
	return err
}

// IsReady asks /readyz as a stranger: both servers answer that to everybody, once
// their roles are there.
func IsReady(ctx context.Context, a Access) error {
	a.Cert, a.Key, a.Token = nil, nil, ""
	c, err := Dial(ctx, a, false)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Must("GET", "/readyz", "", nil, &bytes.Buffer{})
}

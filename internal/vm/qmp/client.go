package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// maxLine bounds what one message may cost; query-qmp-schema, the largest
	// reply of QEMU 7.2, has 200 KB.
	maxLine = 1 << 20
	// eventQueue is how many events wait for a consumer that is busy with a
	// command. More are dropped: an event is a hint to query, not the truth.
	eventQueue = 64
)

// ErrClosed says that the monitor is gone: QEMU ended or Close was called.
var ErrClosed = errors.New("the QMP connection is closed")

// Client talks with one QEMU. Its methods may be called from several goroutines.
type Client struct {
	conn   io.ReadWriteCloser
	events chan Event
	done   chan struct{} // closed when the reader has ended

	mu      sync.Mutex // guards the following and writes to conn
	lastID  uint64
	waiting map[uint64]chan message
	err     error // why the reader ended
}

// New shakes hands on conn and owns it from then on, also when it fails.
func New(ctx context.Context, conn io.ReadWriteCloser) (*Client, error) {
	c := &Client{
		conn:    conn,
		events:  make(chan Event, eventQueue),
		done:    make(chan struct{}),
		waiting: map[uint64]chan message{},
	}
	greeted := make(chan struct{})
	go c.read(greeted)
	select {
	case <-greeted:
	case <-c.done:
		return nil, fmt.Errorf("wait for QEMU's greeting: %w", c.reason())
	case <-ctx.Done():
		c.Close()
		return nil, fmt.Errorf("wait for QEMU's greeting: %w", ctx.Err())
	}
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Events gives QEMU's events; it is closed when the connection ends. Events that
// nobody takes are dropped, so a consumer asks for the state when one comes.
func (c *Client) Events() <-chan Event { return c.events }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection (QEMU runs on) and waits for the reader.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Execute sends one command and waits for its reply, which it decodes into
// result unless that is nil. args is anything that encodes to a JSON object.
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
	answer, id, err := c.send(command, args)
	if err != nil {
		return fmt.Errorf("send %s to QEMU: %w", command, err)
	}
	select {
	case m := <-answer:
		if m.failure != nil {
			m.failure.Command = command
			return m.failure
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(m.reply, result); err != nil {
			return fmt.Errorf("read QEMU's reply to %s: %w", command, err)
		}
		return nil
	case <-c.done:
		return fmt.Errorf("wait for QEMU's reply to %s: %w", command, c.reason())
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
		return fmt.Errorf("wait for QEMU's reply to %s: %w", command, ctx.Err())
	}
}

func (c *Client) send(command string, args any) (<-chan message, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID++
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, c.lastID})
	if err != nil {
		return nil, 0, err
	}
	answer := make(chan message, 1)
	c.waiting[c.lastID] = answer
	if d, ok := c.conn.(interface{ SetWriteDeadline(time.Time) error }); ok {
		// A QEMU that is stopped by a signal takes no bytes; commands are
		// small, so a full socket buffer means just that.
		_ = d.SetWriteDeadline(time.Now().Add(5 * time.Second))
	}
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		delete(c.waiting, c.lastID)
		return nil, 0, err
	}
	return answer, c.lastID, nil
}

// read hands lines to those who wait until the connection ends.
func (c *Client) read(greeted chan<- struct{}) {
	defer close(c.done)
	defer close(c.events)
	in := bufio.NewScanner(c.conn)
	in.Buffer(make([]byte, 0, 4096), maxLine)
	for in.Scan() {
		m, err := parse(in.Bytes())
		if err != nil {
			c.fail(err)
			return
		}
		switch {
		case m.greeting:
			if greeted != nil {
				close(greeted)
				greeted = nil
			}
		case m.event != nil:
			select {
			case c.events <- *m.event:
			default:
			}
		default:
			c.deliver(m)
		}
	}
	c.fail(in.Err())
}

func (c *Client) deliver(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answer, ok := c.waiting[m.id]; ok {
		delete(c.waiting, m.id)
		answer <- m // has room for one, and gets one
	}
}

// fail keeps the first reason and closes the connection.
func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		err = ErrClosed
	} else {
		err = fmt.Errorf("%w: %w", ErrClosed, err)
	}
	c.err = err
	c.conn.Close()
}

func (c *Client) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

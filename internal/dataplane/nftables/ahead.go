package nftables

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Ahead is what the kernel holds of ours, read while a start waits for other things: at a
// restart, reading is most of what the first Sync has to do.
type Ahead struct {
	conn    *conn
	notices int // a socket that heard all changes since before the reading
	done    sync.WaitGroup

	// The following are for who has waited for done.
	found *reading
	err   error
}

// ReadAhead begins to read, in the network namespace of the calling thread. Its result is
// for Config.Ahead; who doesn't hand it on closes it.
func ReadAhead() (*Ahead, error) {
	c, err := openConn()
	if err != nil {
		return nil, fmt.Errorf("read our tables ahead: %w", err)
	}
	a := &Ahead{conn: c}
	if a.notices, err = openNotices(); err != nil {
		return nil, fmt.Errorf("read our tables ahead: %w", errors.Join(err, c.close()))
	}
	a.done.Go(func() { a.found, a.err = c.readAll() })
	return a, nil
}

// readAll reads all that a Sync may want to compare.
func (c *conn) readAll() (*reading, error) {
	lengths, err := c.lengths()
	if err != nil {
		return nil, err
	}
	return c.read(newFamilies(limits{lengths: lengths}))
}

// Wait returns when all is read.
func (a *Ahead) Wait() { a.done.Wait() }

// take gives what was read, once, where nobody has changed our tables since; else nil.
// Notices are queued before a change's writer goes on, so none is on its way.
func (a *Ahead) take() *reading {
	if a == nil || a.conn == nil {
		return nil
	}
	a.done.Wait()
	found := a.found
	if a.err != nil || a.disturbed() {
		found = nil
	}
	_ = a.Close() // sockets that were only read
	return found
}

func (a *Ahead) disturbed() bool {
	ours, err := heard(a.notices, a.conn.buf)
	return ours || err != nil
}

// Close lets go of the sockets. It may be called again, and of nil.
func (a *Ahead) Close() error {
	if a == nil || a.conn == nil {
		return nil
	}
	a.done.Wait()
	err := errors.Join(a.conn.close(), unix.Close(a.notices))
	a.conn, a.found = nil, nil
	return err
}

package userspace

import (
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Urgent data, at which splice(2) stops, holds nothing up, and is a byte like others
// (RFC 6093, section 6).
func TestUrgentData(t *testing.T) {
	_, f := directOnLoopback(t, echo(t))
	c := dialLoopback(t, netip.AddrPortFrom(f.Addr, f.Port))
	if err := talk(c); err != nil {
		t.Fatal(err)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var sent error
	err = raw.Control(func(fd uintptr) { sent = unix.Sendto(int(fd), []byte("ur!"), unix.MSG_OOB, nil) })
	if err != nil || sent != nil {
		t.Fatal(err, sent)
	}
	if _, err := fmt.Fprint(c, "gent"); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(5 * linger)); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, len("ur!gent"))
	if n, err := io.ReadFull(c, back); err != nil || string(back) != "ur!gent" {
		t.Errorf("%q came back: %v", back[:n], err)
	}
}

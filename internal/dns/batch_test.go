package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// An address where a server of ours listens already is an error: the sockets of one
// server share it, two servers don't.
func TestListenNeverShares(t *testing.T) {
	udp, tcp := listenAt(context.Background(), t, "127.0.0.1:0")
	tcp[0].Close() // that one would be in the way, too
	defer Close(udp, tcp)
	if more, rest, err := Listen(context.Background(), []netip.AddrPort{netip.MustParseAddrPort(udp[0].LocalAddr().String())}); err == nil {
		Close(more, rest)
		t.Error("two servers listen on one port")
	}
}

// Many queries that wait on a socket are answered, each to its sender, whatever socket
// the kernel gives it to; by IPv4 and IPv6. DNS-07
func TestBatches(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		s := newServer(t, testConfig())
		s.Replace(nil, cluster())
		ctx, cancel := context.WithCancel(context.Background())
		udp, tcp := listenAt(ctx, t, address)
		const clients, each = 8, 100 // more than a batch, and less than a socket's room
		var conns []net.Conn
		for range clients {
			conn, err := net.Dial("udp", udp[0].LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conns = append(conns, conn)
			for id := range each {
				m := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
				m.Id = uint16(id)
				if id%10 == 9 { // a broken one among them
					m.Question = nil
				}
				wire, err := m.Pack()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Write(wire); err != nil {
					t.Fatal(err)
				}
			}
		}
		done := make(chan error, 1)
		go func() { done <- s.Serve(ctx, udp, tcp) }()
		for _, conn := range conns {
			if err := collect(conn, each); err != nil {
				t.Errorf("%s: %v", address, err)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

// collect reads the answers of one client.
func collect(conn net.Conn, n int) error {
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	seen := map[uint16]bool{}
	buf := make([]byte, 1500)
	for range n {
		size, err := conn.Read(buf)
		if err != nil {
			return fmt.Errorf("after %d answers: %w", len(seen), err)
		}
		m := new(dns.Msg)
		if err := m.Unpack(buf[:size]); err != nil {
			return err
		}
		want := dns.RcodeSuccess
		if m.Id%10 == 9 {
			want = dns.RcodeFormatError
		}
		if seen[m.Id] || m.Rcode != want || want == dns.RcodeSuccess && len(m.Answer) != 1 {
			return fmt.Errorf("answer %d: %v", m.Id, m)
		}
		seen[m.Id] = true
	}
	return nil
}

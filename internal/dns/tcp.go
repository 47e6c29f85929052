package dns

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"time"
)

const (
	// idle is how long a connection may be silent (RFC 7766 6.2.3: a few seconds).
	idle = 10 * time.Second
	// writeFor bounds the wait for a client that doesn't read.
	writeFor = 5 * time.Second
	// maxQuery is more than any sensible question needs; a client that announces
	// more is not read further.
	maxQuery = 4096
)

// converse answers the queries of one TCP connection in the order they come
// (RFC 7766 6.2.1.1 lets clients send several at once).
func (r *run) converse(conn net.Conn, client netip.Addr) {
	in := bufio.NewReaderSize(conn, 1024)
	var size [2]byte
	var q query
	var msg, out, wire []byte
	counts := &r.slow[tcpTransport]
	if _, encrypted := conn.(*tls.Conn); encrypted {
		counts = &r.slow[tlsTransport]
	}
	for {
		if err := conn.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return
		}
		if _, err := io.ReadFull(in, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n > maxQuery {
			return
		}
		msg = append(msg[:0], make([]byte, n)...)
		if _, err := io.ReadFull(in, msg); err != nil {
			return
		}
		began := time.Now()
		reply, what := r.answer(out, msg, client, true, &q)
		if what == ask {
			reply, what = r.askTCP(reply, msg, client, &q), send
		}
		if what == quiet {
			return // no client of ours speaks like that
		}
		out = reply
		if err := conn.SetWriteDeadline(time.Now().Add(writeFor)); err != nil {
			return
		}
		wire = binary.BigEndian.AppendUint16(wire[:0], uint16(len(reply)))
		wire = append(wire, reply...) // one segment (RFC 7766 8)
		_, err := conn.Write(wire)
		counts.add(time.Since(began), note(&q, reply))
		if err != nil {
			return
		}
	}
}

func (r *run) askTCP(dst, msg []byte, client netip.Addr, q *query) []byte {
	if !r.workers.enter(client) {
		reply, _ := r.fail(dst, msg, q, rcodeServFail)
		return reply
	}
	defer r.workers.leave(client)
	return r.askUpstream(r.ctx, dst, msg, client, true, q)
}

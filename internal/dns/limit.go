package dns

import (
	"net/netip"
	"sync"
)

const (
	// maxWorkers bounds the foreign queries that wait for upstream; CoreDNS'
	// manual suggests 1,000. One client gets a share of it, so that a guest which
	// asks for names nobody answers doesn't starve the others.
	maxWorkers          = 1000
	maxWorkersPerClient = 200
	maxConns            = 500
	maxConnsPerClient   = 50
)

// limiter counts what runs, in all and for each client.
type limiter struct {
	max, each int

	mu      sync.Mutex // guards the following
	total   int
	clients map[netip.Addr]int
}

func newLimiter(most, each int) *limiter {
	return &limiter{max: most, each: each, clients: map[netip.Addr]int{}}
}

// enter reports whether one more may run; then leave must follow.
func (l *limiter) enter(client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.max || l.clients[client] >= l.each {
		return false
	}
	l.total++
	l.clients[client]++
	return true
}

func (l *limiter) leave(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.clients[client]--; l.clients[client] == 0 {
		delete(l.clients, client)
	}
}

// Package journal keeps what the parts of a test print.
//
// In: what several goroutines or processes write. Out: all of it, at any time.
package journal

import (
	"bytes"
	"sync"
)

// Log is an io.Writer that many may use at once.
type Log struct {
	mu  sync.Mutex
	all bytes.Buffer // guarded by mu
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

// String gives all that was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

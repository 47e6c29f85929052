package userspace

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Descriptors. What else the process does (watches, names, listeners, pipes in use) gets
// what isn't for connections.
const (
	wantedFiles = 1 << 20 // fs.nr_open's default: the most that a process may ask for
	spareFiles  = 8       // one in so many isn't for connections, and of those, for UDP flows
)

// room bounds how many connections and flows there are at once by the descriptors of this
// process, so that those that are there, and the rest of the program, keep theirs.
type room struct {
	log *slog.Logger

	mu    sync.Mutex // guards the following
	files int        // that connections and flows may have
	used  int
	freed chan struct{} // closed when some are free again; nil: nobody waits
	said  time.Time
}

// filesEach is how many descriptors a TCP connection has: the client's and the backend's.
const filesEach = 2

// newRoom raises this process's limit as far as it may. Not by Setrlimit of package
// syscall: programs that this one starts would then inherit it.
func newRoom(log *slog.Logger) (*room, error) {
	var now unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &now); err != nil {
		return nil, fmt.Errorf("read the limit of descriptors: %w", err)
	}
	for _, try := range []unix.Rlimit{{Cur: wantedFiles, Max: max(wantedFiles, now.Max)}, {Cur: now.Max, Max: now.Max}} {
		if try.Cur > now.Cur && unix.Prlimit(0, unix.RLIMIT_NOFILE, &try, nil) == nil {
			now = try
		}
	}
	files := int(min(now.Cur, wantedFiles))
	return &room{log: log, files: files - files/spareFiles}, nil
}

// add counts descriptors in, or out.
func (r *room) add(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used += n
	if r.freed != nil && r.enough() {
		close(r.freed)
		r.freed = nil
	}
}

// enough tells whether there are descriptors for a connection. mu is held.
func (r *room) enough() bool { return r.used+filesEach <= r.files }

// tryAdd counts one descriptor in for a UDP flow, if there is one. The last are for TCP's:
// made-up clients of UDP must not keep those out.
func (r *room) tryAdd() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used >= r.files-r.files/spareFiles {
		return false
	}
	r.used++
	return true
}

// wait returns once a connection more may be taken; false: it is over. Clients wait in the
// listener's backlog meanwhile.
func (r *room) wait(over <-chan struct{}) bool {
	for {
		r.mu.Lock()
		if r.enough() {
			r.mu.Unlock()
			return true
		}
		if r.freed == nil {
			r.freed = make(chan struct{})
		}
		freed := r.freed
		r.mu.Unlock()
		r.short(fmt.Errorf("this process may have %d descriptors for connections, and all are in use", r.files))
		select {
		case <-freed:
		case <-over:
			return false
		}
	}
}

// sayEvery keeps what lasts from filling the log.
const sayEvery = time.Minute

// short tells, now and then, that clients wait or are turned away.
func (r *room) short(err error) {
	r.mu.Lock()
	quiet := time.Since(r.said) < sayEvery
	if !quiet {
		r.said = time.Now()
	}
	r.mu.Unlock()
	if !quiet {
		r.log.Warn("New clients of Services aren't served just now; those that are there go on. More descriptors (LimitNOFILE= in the unit, ulimit -n) let more in", "error", err)
	}
}

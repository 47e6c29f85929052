package userspace

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// keptPipes is how many empty pipes wait for use: more than directions move bytes at the
// same moment.
const keptPipes = 64

// A large pipe takes two thirds of a processor's time for each byte that one of the kernel's
// default, 64 KiB, takes. But clients that never read may fill theirs, so that only so many are
// large: no more than an ordinary user may have, either (pipe-user-pages-soft of pipe(7)).
const (
	largePipe  = 1 << 20
	largePipes = keptPipes
)

// pipe is one of the kernel's, where bytes are between two sockets (splice(2)).
type pipe struct {
	r, w  int
	large bool
}

// pipes are those that nobody uses just now. A direction has one only while it has bytes.
type pipes struct {
	mu     sync.Mutex // guards the following
	spare  []*pipe
	large  int // of those that there are
	closed bool
}

func (p *pipes) get() (*pipe, error) {
	p.mu.Lock()
	if n := len(p.spare); n > 0 {
		out := p.spare[n-1]
		p.spare = p.spare[:n-1]
		p.mu.Unlock()
		return out, nil
	}
	p.mu.Unlock()
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	out := &pipe{r: fds[0], w: fds[1]}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.large < largePipes {
		_, err := unix.FcntlInt(uintptr(out.w), unix.F_SETPIPE_SZ, largePipe)
		if out.large = err == nil; out.large {
			p.large++
		}
	}
	return out, nil
}

// put takes a pipe back, to be used again if it is clean.
func (p *pipes) put(one *pipe, clean bool) {
	p.mu.Lock()
	keep := clean && !p.closed && len(p.spare) < keptPipes
	if keep {
		p.spare = append(p.spare, one)
	} else if one.large {
		p.large--
	}
	p.mu.Unlock()
	if !keep {
		_ = one.close()
	}
}

func (p *pipes) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var errs []error
	for _, one := range p.spare {
		errs = append(errs, one.close())
	}
	p.spare = nil
	return errors.Join(errs...)
}

func (p *pipe) close() error { return errors.Join(unix.Close(p.r), unix.Close(p.w)) }

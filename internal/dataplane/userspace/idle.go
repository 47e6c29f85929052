package userspace

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// idle are the directions in which nothing comes. One epoll(7) of its own watches all of
// them; Go's poller, which would want a goroutine for each, watches that.
type idle struct {
	file   *os.File
	fd     int
	closed atomic.Bool

	mu      sync.Mutex // guards the following
	waiting map[int32]*direction
}

func newIdle() (*idle, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	// Or os.NewFile would not have Go's poller watch it.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("make an epoll not block: %w", err), unix.Close(fd))
	}
	return &idle{file: os.NewFile(uintptr(fd), "epoll"), fd: fd, waiting: map[int32]*direction{}}, nil
}

// watch has run hand the direction back once something comes; that may be now. raw is
// that of d.from. The caller lets go of d before, and for good.
func (i *idle) watch(d *direction, raw syscall.RawConn) error {
	var failed error
	// Within Control nobody else gets the number of this descriptor.
	err := raw.Control(func(fd uintptr) {
		i.mu.Lock()
		defer i.mu.Unlock()
		if d.session.over.Load() {
			return // who ended it was here before, or comes after
		}
		how := unix.EPOLL_CTL_ADD
		if d.watched {
			how = unix.EPOLL_CTL_MOD
		}
		i.waiting[int32(fd)] = d
		// EPOLLONESHOT: another look is asked for each time. EPOLLERR and EPOLLHUP always come.
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(fd)}
		if failed = unix.EpollCtl(i.fd, how, int(fd), &event); failed != nil {
			delete(i.waiting, int32(fd))
			return
		}
		d.watched = true
	})
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("watch an idle connection: %w", err)
	}
	return nil
}

// forget drops a direction; closing its descriptor ends the watch.
func (i *idle) forget(d *direction) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.waiting[int32(d.fd)] == d {
		delete(i.waiting, int32(d.fd))
	}
}

// taken gives the direction of a descriptor at which something has come; nil when it was
// ended meanwhile.
func (i *idle) taken(fd int32) *direction {
	i.mu.Lock()
	defer i.mu.Unlock()
	d := i.waiting[fd]
	delete(i.waiting, fd)
	return d
}

// run wakes directions until close.
func (i *idle) run(wake func(*direction)) error {
	raw, err := i.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch idle connections: %w", err)
	}
	var events [128]unix.EpollEvent
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.EpollWait(int(fd), events[:], 0)
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case err != nil:
				failed = err
				return true
			case n == 0:
				return false
			}
			for _, e := range events[:n] {
				if d := i.taken(e.Fd); d != nil {
					wake(d)
				}
			}
		}
	})
	if i.closed.Load() {
		return nil
	}
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("watch idle connections: %w", err)
	}
	return nil
}

func (i *idle) close() error {
	i.closed.Store(true)
	return i.file.Close()
}

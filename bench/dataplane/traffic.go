package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/bench/network"
)

const (
	servicePort = 80
	backendPort = 8080
	// doorPort is of the backends whose connections are timed one by one.
	doorPort = 8081
	// messageSize is that of a request and of its answer.
	messageSize = 64
	backlog     = 1024
	// answerTimeout is above the first repetition of a lost SYN (1 s, RFC 6298), which
	// counts as a slow connection and not as a failed one.
	answerTimeout = 3 * time.Second
)

// Blocking system calls on threads of their own cost less than Go's poller, and what the
// ends cost is in every figure: the less it is, the more of a difference shows.

// server answers connections one after the other, at all addresses of its namespace.
type server struct {
	listener int
	ended    chan struct{}
}

func serve(h *network.Host) (*server, error) {
	s := &server{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(s.ended)
		err := h.Do(func() (err error) {
			if s.listener, err = listen(backendPort); err != nil {
				return err
			}
			if err := pin(); err != nil {
				return err
			}
			started <- nil
			s.answer()
			return nil
		})
		if err != nil {
			started <- err
		}
	}()
	return s, <-started
}

func listen(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: port})
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("listen at port %d: %w", port, err), unix.Close(fd))
	}
	return fd, nil
}

func (s *server) answer() {
	var message [messageSize]byte
	for {
		fd, _, err := unix.Accept4(s.listener, unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINVAL): // it was shut down
			_ = unix.Close(s.listener)
			return
		case err != nil:
			continue
		}
		// A client that only tried the door is gone by now or soon. How the
		// connection ends is the client's to tell.
		if n, _ := retry(func() (int, error) { return unix.Read(fd, message[:]) }); n > 0 {
			_, _ = unix.Write(fd, message[:n])
			_, _ = retry(func() (int, error) { return unix.Read(fd, message[:]) }) // its end
		}
		_ = unix.Close(fd)
	}
}

func (s *server) close() {
	if s.listener > 0 {
		_ = unix.Shutdown(s.listener, unix.SHUT_RDWR) // wakes the thread
	}
	<-s.ended
}

// retry goes on after signals, which Go's scheduler sends to long calls.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// pin keeps this thread on the last processor: with both ends on one, it is always busy
// and nothing waits for another to wake up.
func pin() error {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("find the processors: %w", err)
	}
	for cpu := range runtime.NumCPU() * 64 {
		if allowed.IsSet(cpu) {
			one.Zero()
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("stay on one processor: %w", err)
	}
	return nil
}

// dial connects within the timeout, from the namespace of this thread.
func dial(to *unix.SockaddrInet4, timeout time.Duration) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, err
	}
	// For connect(2), too (socket(7)).
	tv := unix.NsecToTimeval(timeout.Nanoseconds())
	if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err == nil {
		if err = unix.Connect(fd, to); errors.Is(err, unix.EINTR) {
			err = finishConnect(fd, timeout)
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// finishConnect waits for a connect(2) that a signal broke and that goes on by itself.
func finishConnect(fd int, timeout time.Duration) error {
	n, err := retry(func() (int, error) {
		return unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(timeout.Milliseconds())+1)
	})
	switch {
	case err != nil:
		return err
	case n == 0:
		return unix.ETIMEDOUT
	}
	status, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && status != 0 {
		err = unix.Errno(status)
	}
	return err
}

// exchange connects, sends a request, reads the answer and closes.
func exchange(to *unix.SockaddrInet4) error {
	fd, err := dial(to, answerTimeout)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer unix.Close(fd)
	var message [messageSize]byte
	if _, err := retry(func() (int, error) { return unix.Write(fd, message[:]) }); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	tv := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return err
	}
	n, err := retry(func() (int, error) { return unix.Read(fd, message[:]) })
	if err == nil && n != messageSize {
		err = fmt.Errorf("%d bytes of %d", n, messageSize)
	}
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

// tryDoor connects and resets the connection, which leaves nothing behind in the client.
func tryDoor(to *unix.SockaddrInet4, timeout time.Duration) error {
	fd, err := dial(to, timeout)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	return unix.Close(fd)
}

// pause sleeps this thread: the poller's timers are coarser.
func pause(d time.Duration) {
	ts := unix.NsecToTimespec(d.Nanoseconds())
	_ = unix.Nanosleep(&ts, nil) // a signal may end it early
}

// targets are where connections of a round go, in any order.
type targets []unix.SockaddrInet4

func target(a netip.Addr, port int) unix.SockaddrInet4 {
	return unix.SockaddrInet4{Addr: a.As4(), Port: port}
}

func (t targets) any() *unix.SockaddrInet4 { return &t[rand.IntN(len(t))] }

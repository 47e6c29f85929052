package apiserver

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/process"
)

// startPatience is how long a server may take to get ready on a busy machine.
const startPatience = 2 * time.Minute

// Server is one that is measured: its processes, and how to reach it.
type Server struct {
	Access apiclient.Access
	Ready  time.Duration // from the first process's start

	cpus      string
	processes []*process.Process // in the order of their start
}

// Stop ends the processes.
func (s *Server) Stop() {
	for _, p := range slices.Backward(s.processes) {
		p.Stop()
	}
}

// Wait calls ready until it succeeds, as long as a server may take to get ready.
func (s *Server) Wait(ctx context.Context, ready func(context.Context) error) error {
	return s.processes[0].Wait(ctx, startPatience, ready)
}

// Settle waits until the server has done what a load left it to do, such as the
// EndpointSlices of new Services, and tells how long that took.
func (s *Server) Settle(ctx context.Context, look time.Duration) (time.Duration, error) {
	return process.Settle(ctx, look, s.processes...)
}

// Freeze stops the server's processes where they are, until they thaw.
func (s *Server) Freeze() error { return s.each((*process.Process).Freeze) }

// Thaw lets frozen processes go on.
func (s *Server) Thaw() error { return s.each((*process.Process).Thaw) }

// StandBack has the server's processes run only where nobody else wants to.
func (s *Server) StandBack() error { return s.each((*process.Process).StandBack) }

func (s *Server) each(do func(*process.Process) error) (err error) {
	for _, p := range s.processes {
		err = errors.Join(err, do(p))
	}
	return err
}

// MemoryMB is that of all its processes.
func (s *Server) MemoryMB() (float64, error) {
	var sum float64
	for _, p := range s.processes {
		m, err := p.Memory()
		if err != nil {
			return 0, err
		}
		sum += m.Anonymous
	}
	return sum, nil
}

// WatchMemory notes the most memory until the returned function is called, which says
// how much it was. A reading that fails shows no peak; others then fail the round.
func (s *Server) WatchMemory() func() float64 {
	var most float64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for {
			if mb, err := s.MemoryMB(); err == nil {
				most = max(most, mb)
			}
			select {
			case <-done:
				return
			case <-ticker.C:
			}
		}
	}()
	return sync.OnceValue(func() float64 {
		close(done)
		<-ended
		return most
	})
}

// ProcessorTime is that of all its processes.
func (s *Server) ProcessorTime() (time.Duration, error) {
	return process.TimesOf(s.processes...)
}

// launch starts one more process of the server, on its processors.
func (s *Server) launch(dir string, argv ...string) (*process.Process, error) {
	name := filepath.Base(argv[0])
	if s.cpus != "" {
		argv = append([]string{"taskset", "-c", s.cpus}, argv...)
	}
	p, err := process.Launch(dir, name, argv...)
	if err == nil {
		s.processes = append(s.processes, p)
	}
	return p, err
}

// StartPortico runs our API, with its store inside and all controllers, on the given
// processors (a list for taskset; "" is all). It is ready when it says so and an
// administrator has the file to connect with.
func StartPortico(ctx context.Context, dir, cpus, binary string, more ...string) (*Server, error) {
	begin := time.Now()
	data := filepath.Join(dir, "data")
	s := &Server{cpus: cpus}
	argv := append([]string{binary, "up", "--no-agent", "--data-dir", data, "--listen", "127.0.0.1:0", "--node-name", "bench"}, more...)
	if _, err := s.launch(dir, argv...); err != nil {
		return nil, err
	}
	err := s.Wait(ctx, func(ctx context.Context) error {
		var err error
		if s.Access, err = apiclient.ReadKubeconfig(Kubeconfig(dir)); err != nil {
			return err
		}
		return apiclient.IsReady(ctx, s.Access)
	})
	s.Ready = time.Since(begin)
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// Kubeconfig is the file that Portico writes for its administrator.
func Kubeconfig(dir string) string { return filepath.Join(dir, "data", "kubeconfig") }

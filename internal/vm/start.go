package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"portico.dev/portico/internal/vm/disk"
	"portico.dev/portico/internal/vm/link"
	"portico.dev/portico/internal/vm/process"
	"portico.dev/portico/internal/vm/qemu"
	"portico.dev/portico/internal/vm/qmp"
	"portico.dev/portico/internal/vm/serial"
	"portico.dev/portico/internal/vm/spec"
)

// startTimeout bounds the time from QEMU's start to its greeting: 0.4 s on an
// idle machine, more where many guests start at once.
const startTimeout = 30 * time.Second

// firstFD is the descriptor that the first of exec.Cmd's ExtraFiles gets.
const firstFD = 3

// Start runs a guest. When it fails nothing of the guest is left.
func (m *Manager) Start(ctx context.Context, s spec.Spec) (*Guest, error) {
	if err := m.reserve(s.ID); err != nil {
		return nil, fmt.Errorf("start the guest %s/%s: %w", s.Namespace, s.Name, err)
	}
	g, err := m.start(ctx, s)
	if err != nil {
		m.forget(s.ID)
		return nil, fmt.Errorf("start the guest %s/%s: %w", s.Namespace, s.Name, err)
	}
	m.remember(g)
	return g, nil
}

// reserve keeps a second Start of the same guest out.
func (m *Manager) reserve(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.guests[id]; ok {
		return ErrExists
	}
	m.guests[id] = nil
	return nil
}

func (m *Manager) start(ctx context.Context, s spec.Spec) (_ *Guest, err error) {
	program, err := m.program()
	if err != nil {
		return nil, because(ReasonNoQEMU, err)
	}
	if err := m.Lost(s.ID); err != nil {
		return nil, because(ReasonDamaged, err)
	}
	g := m.newGuest(s, filepath.Join(m.cfg.Dir, s.ID))
	var undo undoes
	defer func() {
		if err != nil {
			undo.run()
		}
	}()
	if err := os.Mkdir(g.dir, 0o700); err != nil {
		return nil, err
	}
	undo.add(func() { _ = erase(g.dir) }) // the next Adopt tries again
	if err := save(g.dir, specFile, s); err != nil {
		return nil, err
	}
	files, err := m.files(ctx, s, g.dir)
	if err != nil {
		return nil, err
	}
	if err := m.launch(ctx, g, program, files, &undo); err != nil {
		return nil, err
	}
	if !s.StartPaused {
		if err := g.command(ctx, "cont"); err != nil {
			return nil, because(ReasonQEMUFailed, err)
		}
	}
	g.status.State = Running
	if s.StartPaused {
		g.status = Status{State: Paused, Reason: "Paused", Started: g.status.Started, Accel: g.status.Accel}
	}
	g.log.Info("guest started", "pid", g.proc.ID.PID, "accelerator", g.status.Accel.Reason)
	go g.watch()
	return g, nil
}

// undoes are run last first when a start fails.
type undoes []func()

func (u *undoes) add(f func()) { *u = append(*u, f) }

func (u *undoes) run() {
	for i := len(*u) - 1; i >= 0; i-- {
		(*u)[i]()
	}
}

func (m *Manager) program() (string, error) {
	path, err := exec.LookPath(m.cfg.QEMU)
	if err != nil {
		return "", fmt.Errorf("%s is missing; install it with: apt-get install --no-install-recommends qemu-system-x86 qemu-utils: %w", m.cfg.QEMU, err)
	}
	return path, nil
}

// files finds all that the guest needs of the host's file system.
func (m *Manager) files(ctx context.Context, s spec.Spec, dir string) (qemu.Files, error) {
	var f qemu.Files
	var err error
	if k := s.Kernel; k != nil {
		if f.Kernel, err = m.cfg.Images.Resolve(ctx, k.Image, k.Path); err != nil {
			return f, because(ReasonNoImage, err)
		}
		if k.Initrd != "" {
			if f.Initrd, err = m.cfg.Images.Resolve(ctx, k.Image, k.Initrd); err != nil {
				return f, because(ReasonNoImage, err)
			}
		}
	}
	if s.Environment != "" {
		f.Environment = filepath.Join(dir, envFile)
		if err := os.WriteFile(f.Environment, []byte(s.Environment), 0o600); err != nil {
			return f, fmt.Errorf("write the guest's environment: %w", err)
		}
	}
	for _, d := range s.Disks {
		path := d.Path
		if d.Scratch() {
			path = filepath.Join(dir, "disk-"+d.Name+".raw")
		}
		if d.Create > 0 {
			if err := disk.Create(path, d.Create); err != nil {
				return f, because(ReasonBadDisk, err)
			}
		}
		found, err := disk.Inspect(ctx, m.cfg.QemuImg, path)
		if err != nil {
			return f, because(ReasonBadDisk, err)
		}
		f.Disks = append(f.Disks, qemu.DiskFile{Path: path, Format: found.Format, Block: found.Block})
	}
	return f, nil
}

// launch starts QEMU and connects to it; the guest itself waits.
func (m *Manager) launch(ctx context.Context, g *Guest, program string, files qemu.Files, undo *undoes) error {
	// What QEMU inherits; our copies are of no use once it runs.
	var extra []*os.File
	defer func() {
		for _, f := range extra {
			f.Close()
		}
	}()
	inherit := func(f *os.File) int {
		extra = append(extra, f)
		return firstFD + len(extra) - 1
	}
	for _, socket := range []struct {
		name string
		fd   *int
	}{{qmpSocket, &files.MonitorFD}, {ttySocket, &files.ConsoleFD}} {
		l, err := listen(g.dir, socket.name)
		if err != nil {
			return fmt.Errorf("make the socket %s: %w", socket.name, err)
		}
		*socket.fd = inherit(l)
	}
	if m.cfg.Links != nil {
		lg, err := linkGuest(g.Spec)
		if err != nil {
			return because(ReasonNoLink, err)
		}
		undo.add(g.detach)
		tap, err := m.cfg.Links.Attach(ctx, lg)
		if err != nil {
			return because(ReasonNoLink, err)
		}
		files.TapFD = inherit(tap)
	}
	if err := m.run(g, program, files, extra, undo); err != nil {
		return because(ReasonQEMUFailed, err)
	}
	for _, f := range extra {
		f.Close() // now, so that QEMU's end is the connections' end
	}
	extra = nil
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := g.connect(ctx); err != nil {
		// QEMU closes its sockets a moment before it is gone.
		select {
		case <-g.proc.Done():
			err = fmt.Errorf("QEMU ended at once (%s)%s", g.proc.Exit(), complaint(g.dir))
		case <-time.After(time.Second):
		}
		return because(ReasonQEMUFailed, err)
	}
	undo.add(func() { g.mon.Close(); g.hub.Close() })
	return nil
}

// run starts the process and notes it down.
func (m *Manager) run(g *Guest, program string, files qemu.Files, extra []*os.File, undo *undoes) error {
	complaints, err := os.OpenFile(filepath.Join(g.dir, qemuLog), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer complaints.Close()
	cmd := exec.Command(program, qemu.Args(g.Spec, files, m.cfg.Accel.KVM)...)
	cmd.Dir = g.dir // by which an unnoted process is found again
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = complaints, complaints, extra
	if g.proc, err = process.Start(cmd); err != nil {
		return err
	}
	undo.add(func() {
		if err := g.proc.Kill(); err != nil {
			g.log.Error("QEMU can't be killed", "err", err)
			return
		}
		<-g.proc.Done()
		g.proc.Release()
	})
	g.status = Status{Started: time.Now(), Accel: m.cfg.Accel}
	return save(g.dir, processFile, running{g.proc.ID, g.status.Started, m.cfg.Accel})
}

// connect opens the monitor and the console.
func (g *Guest) connect(ctx context.Context) error {
	conn, err := dial(g.dir, qmpSocket)
	if err != nil {
		return fmt.Errorf("connect to QEMU's monitor: %w", err)
	}
	tty, err := dial(g.dir, ttySocket)
	if err != nil {
		conn.Close()
		return fmt.Errorf("connect to the console: %w", err)
	}
	if g.mon, err = qmp.New(ctx, conn); err != nil {
		tty.Close()
		return err
	}
	record, err := serial.OpenLog(filepath.Join(g.dir, ttyLog))
	if err != nil {
		tty.Close()
		g.mon.Close()
		return err
	}
	g.hub = serial.New(tty, record, g.log)
	return nil
}

func linkGuest(s spec.Spec) (link.Guest, error) {
	mac, err := net.ParseMAC(s.MAC)
	if err != nil {
		return link.Guest{}, fmt.Errorf("the guest's hardware address: %w", err)
	}
	if len(s.Addresses) == 0 {
		return link.Guest{}, errors.New("the guest has no address")
	}
	return link.Guest{
		ID: s.ID, Namespace: s.Namespace, Name: s.Name, MAC: mac, Addrs: s.Addresses,
		Hostname: s.Hostname, DNS: s.DNS, Search: s.Search,
	}, nil
}

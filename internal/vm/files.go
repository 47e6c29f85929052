package vm

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"portico.dev/portico/internal/durable"
	"portico.dev/portico/internal/vm/accel"
	"portico.dev/portico/internal/vm/process"
	"portico.dev/portico/internal/vm/serial"
)

const (
	specFile    = "spec.json"
	processFile = "process.json"
	endFile     = "end.json"
	qmpSocket   = "qmp.sock"
	ttySocket   = "console.sock"
	ttyLog      = "console.log"
	qemuLog     = "qemu.log"
	envFile     = "environment"
)

// running is process.json.
type running struct {
	process.Identity
	Started time.Time    `json:"started"`
	Accel   accel.Choice `json:"accel"`
}

// end is end.json.
type end struct {
	State   State        `json:"state"`
	Reason  string       `json:"reason"`
	Message string       `json:"message"`
	Started time.Time    `json:"started"`
	Ended   time.Time    `json:"ended"`
	Accel   accel.Choice `json:"accel"`
}

// save writes a state file so that after a power cut it is there whole or not at
// all.
func save(dir, name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return durable.WriteFile(filepath.Join(dir, name), append(b, '\n'))
}

// restore reads a state file; fs.ErrNotExist if there is none.
func restore(dir, name string, v any) error {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", filepath.Join(dir, name), err)
	}
	return nil
}

// through calls do with a short name for a socket in dir: sun_path has room for
// 107 bytes (unix(7)), and data directories may be deeper.
func through(dir, name string, do func(*net.UnixAddr) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	return do(&net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)})
}

func dial(dir, name string) (*net.UnixConn, error) {
	var conn *net.UnixConn
	err := through(dir, name, func(addr *net.UnixAddr) (err error) {
		conn, err = net.DialUnix("unix", nil, addr)
		return err
	})
	return conn, err
}

// listen makes a socket for QEMU to serve. We make it, so that connecting works
// at once, needs no waiting, and fails when QEMU doesn't start.
func listen(dir, name string) (*os.File, error) {
	var f *os.File
	err := through(dir, name, func(addr *net.UnixAddr) error {
		l, err := net.ListenUnix("unix", addr)
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		defer l.Close()
		f, err = l.File()
		return err
	})
	return f, err
}

// complaint is ": " and the last line of QEMU's log without its time stamp and
// name, or nothing.
func complaint(dir string) string {
	const enough = 4 << 10
	b, err := serial.Tail(filepath.Join(dir, qemuLog), enough)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	last := lines[len(lines)-1]
	if err != nil || last == "" {
		return ""
	}
	if _, text, ok := strings.Cut(last, ": "); ok && strings.Contains(last, "qemu") {
		last = text
	}
	return ": " + last
}

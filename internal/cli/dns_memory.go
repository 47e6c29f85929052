package cli

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/internal/core/catalog"
)

// namesHeapPercent is the GOGC of a DNS server alone: it allocates when Services
// change and not when it answers, so that collecting often costs next to nothing.
const namesHeapPercent = 40

// afterStart is a consumer that gives back, once, what only the start needed: the
// memory of the first lists, and the program's own text. The start runs through the
// packages of a whole cluster; a DNS server needs a tenth of them.
type afterStart struct {
	once sync.Once
	log  *slog.Logger
}

var _ agent.Consumer = (*afterStart)(nil)

// Replace implements agent.Consumer.
func (a *afterStart) Replace(*catalog.Node, []agent.View) {
	a.once.Do(func() {
		debug.FreeOSMemory()
		if err := dropProgramText(); err != nil {
			a.log.Warn("the program's own pages stay in memory", "error", err)
		}
	})
}

// Update implements agent.Consumer.
func (a *afterStart) Update([]agent.View) {}

// dropProgramText takes the program's read-only pages out of this process's memory. The
// kernel maps those that are used again, from its cache of the file.
func dropProgramText() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program's file: %w", err)
	}
	file, err := os.Open("/proc/self/smaps")
	if err != nil {
		return fmt.Errorf("read the program's mappings: %w", err)
	}
	defer file.Close()
	mappings, err := untouched(file, self)
	if err != nil {
		return err
	}
	for _, m := range mappings {
		// Else a kernel that caches files in pieces of 2 MB maps such a piece for each
		// page that is used. One built without huge pages answers EINVAL, and needs no telling.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.first, m.last-m.first, unix.MADV_NOHUGEPAGE)
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.first, m.last-m.first, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("drop the mapping %x-%x: %w", m.first, m.last, errno)
		}
	}
	return nil
}

type mapping struct{ first, last uintptr }

// untouched reads proc_pid_smaps(5) for a file's mappings that can't be written, and of
// which no page was. The second matters: the dynamic linker writes addresses into pages
// that it then makes read-only (RELRO), and those can't be had again from the file.
func untouched(smaps io.Reader, file string) (out []mapping, err error) {
	var last mapping
	ours := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) > 1 && strings.HasSuffix(fields[0], ":"):
			// The fields of one mapping. VmFlags is the last.
			switch fields[0] {
			case "Anonymous:", "Private_Dirty:", "Shared_Dirty:", "Swap:":
				ours = ours && fields[1] == "0"
			case "VmFlags:":
				if ours {
					out = append(out, last)
				}
				ours = false
			}
		case len(fields) >= 6:
			// "55c0000-55f0000 r-xp 00001000 fe:00 4711   /usr/bin/portico"
			n, err := fmt.Sscanf(fields[0], "%x-%x", &last.first, &last.last)
			if err != nil || n != 2 {
				return nil, fmt.Errorf("read the program's mappings: %q is none", lines.Text())
			}
			ours = fields[5] == file && (fields[1] == "r-xp" || fields[1] == "r--p")
		}
	}
	return out, nil
}

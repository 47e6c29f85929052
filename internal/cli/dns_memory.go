package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/internal/core/catalog"
)

const (
	// namesHeapPercent is the GOGC of a DNS server alone while it reads the first lists:
	// nearly all of what it allocates then is garbage at once.
	namesHeapPercent = 40
	// namesHeapRoom is how much it allocates between two collections afterwards, some
	// hundreds of changes: a collection delays the names that come meanwhile. What a burst
	// of them leaves is given back when it is over.
	namesHeapRoom = 16 * mebibyte
	// namesLook is how often the memory is looked at.
	namesLook = time.Second
	// namesQuiet is how many bytes are allocated between two looks when next to nothing
	// changes; a changed Service takes some 16 KiB.
	namesQuiet = 128 << 10
	// namesIdle is how many queries come between two looks when next to nobody asks. What is
	// given back stops or slows the answers of that moment: one in a hundred isn't to notice.
	namesIdle = 100
	// namesSlack is the garbage that isn't worth a collection.
	namesSlack = 2 * mebibyte
)

// namesMemory keeps a DNS server alone small. While nothing changes and hardly anybody asks,
// it gives back what was needed for changes: garbage, and the program's own text.
// The start runs through the packages of a whole cluster, a collection looks up each
// function that waits; to answer queries takes a twentieth of that.
type namesMemory struct {
	loaded  chan struct{} // capacity 1: the first lists are here
	queries func() uint64 // that were answered since the start; set before run
	log     *slog.Logger
}

var _ agent.Consumer = (*namesMemory)(nil)

// newNamesMemory is called before anything is read. A process whose user has set GOGC or
// GOMEMLIMIT collects as they say.
func newNamesMemory(log *slog.Logger) *namesMemory {
	runtime.MemProfileRate = 0 // nobody can ask this process for a profile
	if !heapIsSet() {
		debug.SetGCPercent(namesHeapPercent)
	}
	return &namesMemory{loaded: make(chan struct{}, 1), log: log}
}

func heapIsSet() bool { return os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" }

// Replace implements agent.Consumer.
func (m *namesMemory) Replace(*catalog.Node, []agent.View) {
	select {
	case m.loaded <- struct{}{}:
	default:
	}
}

// Update implements agent.Consumer.
func (m *namesMemory) Update([]agent.View) {}

// run looks after the memory until ctx ends.
func (m *namesMemory) run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-m.loaded:
	}
	m.trim()
	before, dropped, answered := readHeap(), collections(), m.queries()
	if !heapIsSet() {
		debug.SetGCPercent(namesPercent(before.live))
	}
	ticker := time.NewTicker(namesLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, fresh, asked := readHeap(), collections(), m.queries()
		if trim, drop := namesGiveBack(before, now, asked-answered, fresh != dropped); trim {
			m.trim()
			dropped = collections()
		} else if drop {
			m.dropText()
			dropped = fresh
		}
		before, answered = now, asked
	}
}

// namesGiveBack says what is to be given back after a look: garbage and program text, or
// the text alone, where garbage was collected since that was done last.
func namesGiveBack(before, now heapUse, queries uint64, collected bool) (trim, drop bool) {
	if now.allocated-before.allocated >= namesQuiet || queries >= namesIdle {
		return false, false
	}
	return now.held > now.live+namesSlack, collected
}

// namesPercent is the GOGC for a heap with that much alive.
func namesPercent(live uint64) int {
	return int(min(max(namesHeapPercent, namesHeapRoom*100/max(live, 1)), 200))
}

func (m *namesMemory) trim() {
	debug.FreeOSMemory()
	m.dropText()
}

func (m *namesMemory) dropText() {
	if err := dropProgramText(); err != nil {
		m.log.Debug("the program's own pages stay in memory", "error", err)
	}
}

// collections is how often garbage was collected.
func collections() uint64 { return runtimeCounts("/gc/cycles/total:gc-cycles")[0] }

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
// that it then makes read-only (RELRO), and those, which are anonymous since, can't be had
// again from the file. That the file itself waits to be written, as after an upgrade, which
// is what Private_Dirty tells, doesn't matter.
func untouched(smaps io.Reader, file string) (out []mapping, err error) {
	var last mapping
	ours := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) > 1 && strings.HasSuffix(fields[0], ":"):
			// The fields of one mapping. VmFlags is the last.
			switch fields[0] {
			case "Anonymous:", "Swap:":
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

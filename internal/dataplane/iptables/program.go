package iptables

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// The variants of the programs.
const (
	Legacy   = "legacy"
	NFTables = "nft"
)

// programs runs iptables of one variant.
type programs struct {
	variant string
	suffix  string                      // between "iptables" and "-save"
	enter   func(func() error) error    // where rules belong
	attr    func() *syscall.SysProcAttr // of the programs; nil: nothing
	wait    string                      // instead of lockWait; "": that
}

var errNoProgram = errors.New("the program iptables is not installed (Debian: apt-get install iptables)")

// find gives a program's path. Daemons don't always have the administrator's PATH.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, errNoProgram)
}

// choose gives the variant that the host uses: the one with rules, else what "iptables" is.
func choose(ctx context.Context, enter func(func() error) error) (*programs, error) {
	by := map[string]*programs{}
	for _, v := range []string{Legacy, NFTables} {
		if _, err := find("iptables-" + v + "-restore"); err == nil {
			by[v] = &programs{variant: v, suffix: "-" + v, enter: enter}
		}
	}
	path, err := find("iptables")
	if err != nil {
		return nil, err
	}
	words, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w: %s", path, err, bytes.TrimSpace(words))
	}
	usual := NFTables
	if strings.Contains(string(words), "legacy") || !strings.Contains(string(words), "nf_tables") {
		usual = Legacy // before 1.8 there was nothing else, and no word of it
	}
	if by[usual] == nil {
		by[usual] = &programs{variant: usual, enter: enter}
	}
	if by[Legacy] == nil || by[NFTables] == nil {
		return by[usual], nil
	}
	old, err := by[Legacy].count(ctx)
	if err != nil || old == 0 {
		return by[usual], err
	}
	young, err := by[NFTables].count(ctx)
	if err != nil {
		return by[usual], err
	}
	switch {
	case old > young:
		return by[Legacy], nil
	case young > 0:
		return by[NFTables], nil
	}
	return by[usual], nil
}

// exact gives a variant that was asked for by name.
func exact(variant string, enter func(func() error) error) (*programs, error) {
	if _, err := find("iptables-" + variant + "-restore"); err != nil {
		return nil, err
	}
	return &programs{variant: variant, suffix: "-" + variant, enter: enter}, nil
}

// count gives how many rules both families have. Of legacy nothing is asked whose table
// the kernel doesn't have: asking would make it.
func (p *programs) count(ctx context.Context) (n int, err error) {
	for _, v6 := range []bool{false, true} {
		for t := range table(tables) {
			text, err := p.saveExisting(ctx, v6, t)
			if err != nil {
				return 0, err
			}
			n += bytes.Count(text, []byte("\n-A "))
		}
	}
	return n, nil
}

// saveExisting prints a table, nothing when it isn't there.
func (p *programs) saveExisting(ctx context.Context, v6 bool, t table) ([]byte, error) {
	if p.variant == Legacy {
		list := "/proc/thread-self/net/ip_tables_names"
		if v6 {
			list = "/proc/thread-self/net/ip6_tables_names"
		}
		var names []byte
		err := p.enter(func() (err error) {
			names, err = os.ReadFile(list)
			return err
		})
		if errors.Is(err, os.ErrNotExist) || err == nil && !bytes.Contains(names, []byte(tableNames[t]+"\n")) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return p.save(ctx, v6, t)
}

func (p *programs) save(ctx context.Context, v6 bool, t table) ([]byte, error) {
	return p.run(ctx, v6, "-save", nil, "-t", tableNames[t])
}

// lockWait is how many seconds another program may keep the lock of iptables before that is
// said. Plane tries again with pauses, and takes all news along.
const lockWait = "5"

// restore carries a batch out: a table changes as a whole or not at all.
func (p *programs) restore(ctx context.Context, v6 bool, text []byte) error {
	_, err := p.run(ctx, v6, "-restore", text, "--noflush", "--wait", cmp.Or(p.wait, lockWait))
	return err
}

// busy is the exit status of iptables when another program has the lock (RESOURCE_PROBLEM).
const busy = 4

// errLocked says that the lock was taken.
var errLocked = errors.New("another program holds the lock of iptables (/run/xtables.lock), `fuser -v /run/xtables.lock` names it; what the kernel has goes on, changes wait")

// hugePages has glibc (2.35 and later) take memory in huge pages where the kernel has them.
// The programs touch all rules of a table once, and a third of their time would be faults:
// 0.41 s of processors become 0.28 s for one endpoint among 10,000 Services on legacy.
const hugePages = "GLIBC_TUNABLES=glibc.malloc.hugetlb=1"

func (p *programs) run(ctx context.Context, v6 bool, what string, in []byte, args ...string) ([]byte, error) {
	name := "iptables" + p.suffix + what
	if v6 {
		name = "ip6" + name[2:]
	}
	path, err := find(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	var out, words bytes.Buffer
	cmd.Env = append(os.Environ(), hugePages)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &words
	if p.attr != nil {
		cmd.SysProcAttr = p.attr()
	}
	err = p.enter(cmd.Run)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == busy && strings.Contains(words.String(), "lock") {
		return nil, fmt.Errorf("%s: %w", name, errLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s%s", name, strings.Join(args, " "), err, bytes.TrimSpace(words.Bytes()), lineOf(in, words.String()))
	}
	return out.Bytes(), nil
}

// lineOf quotes the line of a batch that a message of iptables-restore names.
func lineOf(in []byte, words string) string {
	var n int
	for _, mark := range []string{"line: ", "line "} {
		if _, after, ok := strings.Cut(words, mark); ok {
			if _, err := fmt.Sscanf(after, "%d", &n); err == nil {
				break
			}
		}
	}
	if lines := bytes.Split(in, []byte("\n")); n > 0 && n <= len(lines) {
		return fmt.Sprintf(" (%s)", lines[n-1])
	}
	return ""
}

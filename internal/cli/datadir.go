package cli

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/durable"
)

const (
	lockFile       = "lock"
	runFile        = "run.json"
	kubeconfigFile = "kubeconfig"
)

// dataEntries are what Portico keeps in a data directory. Nothing else there is its.
var dataEntries = []string{"etcd", "etcd.restoring", "pki", "images", "guests", "node", identityFolder, kubeconfigFile, kubeconfigFile + ".new", runFile, runFile + ".new", lockFile}

// prepareDataDir makes the folder and takes the lock that a second instance finds.
// A run that stored nothing leaves nothing: release removes what was made here and
// is still empty.
func prepareDataDir(dir string) (release func(), err error) {
	undo, err := makeFolder(dir)
	if err != nil {
		return nil, fmt.Errorf("--data-dir %s can't be made: %w; choose a folder that you may write to", dir, cause(err))
	}
	file := filepath.Join(dir, lockFile)
	before, err := entries(dir)
	if err != nil {
		undo()
		return nil, fmt.Errorf("--data-dir %s can't be read: %w; run as its owner or choose another folder", dir, cause(err))
	}
	lock, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		undo()
		return nil, fmt.Errorf("--data-dir %s can't be used: %w; run as its owner or choose another folder", dir, cause(err))
	}
	if err := flock(lock); err != nil {
		lock.Close()
		return nil, fmt.Errorf("another Portico%s runs on --data-dir %s; stop it first, or give this one a folder of its own", lockedBy(file), dir)
	}
	return func() {
		if now, err := entries(dir); err == nil && len(now) == len(before)+1 {
			_ = os.Remove(file) // the lock alone is new; what may stay is an empty file
			undo()
		}
		lock.Close()
	}, nil
}

// makeFolder makes dir and the folders above it that are missing; undo removes
// those that are still empty.
func makeFolder(dir string) (undo func(), err error) {
	var made []string // the deepest first
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Lstat(d); !errors.Is(err, fs.ErrNotExist) || d == filepath.Dir(d) {
			break
		}
		made = append(made, d)
	}
	undo = func() {
		for _, d := range made {
			if os.Remove(d) != nil {
				return // it isn't empty
			}
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}

func entries(dir string) ([]string, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Name()
	}
	return names, nil
}

// cause strips the path off an error of package os: the message has it already.
func cause(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// lockHolder finds the process that holds the lock on a file, 0 when none does or
// it isn't to be seen from here. It takes no lock itself, so that looking never
// makes a start fail.
func lockHolder(file string) int {
	var st unix.Stat_t
	if unix.Stat(file, &st) != nil {
		return 0
	}
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer locks.Close()
	lines := bufio.NewScanner(locks)
	for lines.Scan() {
		if pid, inode := parseLock(lines.Text()); pid > 0 && inode == st.Ino {
			return pid
		}
	}
	return 0
}

// parseLock reads a line of /proc/locks (proc_locks(5)) about a lock by flock(2):
// "7: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF". The device isn't used: file
// systems with subvolumes show another one than stat does.
func parseLock(line string) (pid int, inode uint64) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[1] != "FLOCK" {
		return 0, 0
	}
	pid, err := strconv.Atoi(fields[4])
	if err != nil {
		return 0, 0
	}
	inode, err = strconv.ParseUint(fields[5][strings.LastIndexByte(fields[5], ':')+1:], 10, 64)
	if err != nil {
		return 0, 0
	}
	return pid, inode
}

// lockedBy is " (process 4711)", or nothing where that isn't known.
func lockedBy(file string) string {
	if pid := lockHolder(file); pid > 0 {
		return fmt.Sprintf(" (process %d)", pid)
	}
	return ""
}

// runRecord is what `portico status` and `portico down` must know of the last run
// on a data directory.
type runRecord struct {
	NodeName  string `json:"nodeName"`
	Agent     bool   `json:"agent"`     // it handled this host's network and guests
	Namespace string `json:"namespace"` // its network namespace, as /proc names it
	Boot      string `json:"boot"`      // of the machine: network namespaces are numbered anew
	DataPlane string `json:"dataplane"`
	VM        string `json:"vm"`

	Services []netip.Prefix `json:"serviceCIDR"`
	Cluster  []netip.Prefix `json:"clusterCIDR"`
	Guests   []netip.Prefix `json:"guestCIDR"`

	NodeRoutes string `json:"nodeRoutes,omitempty"` // --node-routes

	NodeIPs    []netip.Addr   `json:"nodeIP,omitempty"`            // as given
	NodePorts  []netip.Prefix `json:"nodePortAddresses,omitempty"` // none: the primary addresses
	Kubeconfig string         `json:"kubeconfig,omitempty"`        // of an agent whose API is elsewhere

	MasqueradeBit  int  `json:"masqueradeBit"`
	LocalNodePorts bool `json:"localNodePorts,omitempty"`

	IPVSScheduler string         `json:"ipvsScheduler,omitempty"`
	IPVSExclude   []netip.Prefix `json:"ipvsExclude,omitempty"`

	Limited bool `json:"limited,omitempty"` // it could change nothing of the host's network
}

// writeRunRecord notes a run that begins.
func (o *options) writeRunRecord() error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	namespace, err := ownNamespace()
	if err != nil {
		return err
	}
	kubeconfig := o.kubeconfig
	if kubeconfig != "" {
		if kubeconfig, err = filepath.Abs(kubeconfig); err != nil {
			return fmt.Errorf("--kubeconfig: %w", err)
		}
	}
	raw, err := json.MarshalIndent(runRecord{
		NodeName: o.nodeName, Agent: !o.noAgent, Namespace: namespace, Boot: boot, DataPlane: o.dataplane, VM: o.vm,
		Services: o.services, Cluster: o.cluster, Guests: o.guests, NodeRoutes: o.nodeRoutes.mode, NodeIPs: o.nodeIPs, NodePorts: o.nodePortRanges, Kubeconfig: kubeconfig,
		MasqueradeBit: o.masqueradeBit, LocalNodePorts: o.localNodePorts, IPVSScheduler: o.ipvs.scheduler, IPVSExclude: o.ipvs.excluded, Limited: o.lacks != nil,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the note of this run: %w", err)
	}
	file, raw := filepath.Join(o.dataDir, runFile), append(raw, '\n')
	if last, err := os.ReadFile(file); err == nil && bytes.Equal(last, raw) {
		return nil // a restart waits for no disk
	}
	return durable.WriteFile(file, raw)
}

// readRunRecord gives nil where no run has been noted.
func readRunRecord(dir string) (*runRecord, error) {
	file := filepath.Join(dir, runFile)
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the note of the last run: %w", err)
	}
	r := &runRecord{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("the note of the last run %s is damaged (%w); remove it, the next `portico up` writes it anew", file, err)
	}
	return r, nil
}

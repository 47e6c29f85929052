package l2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	"portico.dev/portico/internal/announce/greet"
)

// Store is a file that lets an agent which starts again greet its peers before it has
// reached the API, and go on with what it held. It has the cluster's key, and is for root
// alone. What it says is of one boot of the machine.
type Store struct {
	file string
	wake chan struct{}

	mu    sync.Mutex // guards the following
	state stored
}

type stored struct {
	Boot   string        `json:"boot"`
	Keys   [][]byte      `json:"keys"`
	Peers  []greet.Peer  `json:"peers"`
	Claims []greet.Claim `json:"claims"`
}

// NewStore names the file; it need not exist.
func NewStore(file string) *Store { return &Store{file: file, wake: make(chan struct{}, 1)} }

// bootID is a random number of this boot (proc_sys_kernel(5)).
func bootID() string {
	raw, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // without it no boot is another
	return strings.TrimSpace(string(raw))
}

// load reads what the run before left, if that was since the machine started.
func (s *Store) load() (was stored, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return was, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &was)
	}
	if err != nil {
		return stored{}, false, fmt.Errorf("read %s: %w", s.file, err)
	}
	if was.Boot != bootID() || len(was.Keys) == 0 {
		return stored{}, false, nil
	}
	s.state = was
	return was, true, nil
}

func (s *Store) setPeers(peers []greet.Peer) {
	s.mu.Lock()
	same := reflect.DeepEqual(s.state.Peers, peers)
	s.mu.Unlock()
	if !same { // most inputs are about Services
		s.change(func() { s.state.Peers = peers })
	}
}

func (s *Store) setClaims(claims []greet.Claim) {
	s.change(func() { s.state.Claims = slices.Clone(claims) })
}

func (s *Store) setKeys(keys [][]byte) {
	s.change(func() { s.state.Keys = keys })
}

func (s *Store) change(f func()) {
	s.mu.Lock()
	f()
	s.mu.Unlock()
	poke(s.wake)
}

// run writes what changed, until ctx ends and once more then: a slow disk must not keep
// the one who decides.
func (s *Store) run(ctx context.Context, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return s.write()
		case <-s.wake:
			if err := s.write(); err != nil {
				log.Warn("What this node announces isn't remembered over a restart", "error", err)
			}
		}
	}
}

func (s *Store) write() error {
	s.mu.Lock()
	s.state.Boot = bootID()
	raw, err := json.Marshal(s.state)
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("write %s: %w", s.file, err)
	}
	if err := os.MkdirAll(filepath.Dir(s.file), 0o700); err != nil {
		return err
	}
	const ownerOnly = 0o600
	fresh := s.file + ".new"
	if err := os.WriteFile(fresh, raw, ownerOnly); err != nil {
		return err
	}
	return os.Rename(fresh, s.file)
}

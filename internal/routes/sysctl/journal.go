package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Change is one recorded change of a parameter.
type Change struct {
	Key    string `json:"key"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Journal is the record of changes, on disk before the kernel sees them. A record
// of an earlier boot or of another network namespace is void: those parameters
// died with their kernel or namespace.
type Journal struct {
	path string

	mu  sync.Mutex // guards the following
	rec record
}

type record struct {
	Boot      string   `json:"boot"`
	Namespace string   `json:"namespace"`
	Changes   []Change `json:"changes"`
}

// OpenJournal reads the journal at path; a missing file is an empty journal.
func OpenJournal(path string) (*Journal, error) {
	here, err := whereabouts()
	if err != nil {
		return nil, err
	}
	j := &Journal{path: path, rec: here}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return j, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of changed sysctls: %w", err)
	}
	var old record
	if err := json.Unmarshal(b, &old); err != nil {
		return nil, fmt.Errorf("the record of changed sysctls %s is damaged (%w); if you don't need the old values back, remove it", path, err)
	}
	if old.Boot == here.Boot && old.Namespace == here.Namespace {
		j.rec.Changes = old.Changes
	}
	return j, nil
}

// Set gives a parameter a value, recording the value before the first change. It
// does nothing when the parameter has the value already.
func (j *Journal) Set(key, value string) error {
	now, err := Get(key)
	if err != nil {
		return err
	}
	if now == value {
		return nil
	}
	if err := j.Note(Change{Key: key, Before: now, After: value}); err != nil {
		return err
	}
	return Set(key, value)
}

// Note records changes that are about to be made by other means, such as those
// the kernel makes to every interface when a global switch is thrown. Of a key
// that is recorded already the first value before is kept.
func (j *Journal) Note(changes ...Change) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	next := slices.Clone(j.rec.Changes)
	for _, c := range changes {
		if i := index(next, c.Key); i >= 0 {
			next[i].After = c.After
		} else {
			next = append(next, c)
		}
	}
	if slices.Equal(next, j.rec.Changes) {
		return nil
	}
	return j.save(next)
}

// Forget drops the records that drop selects: their parameters have become
// somebody else's.
func (j *Journal) Forget(drop func(Change) bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(j.rec.Changes), drop)
	if len(next) == len(j.rec.Changes) {
		return nil
	}
	return j.save(next)
}

// Has tells whether key is recorded.
func (j *Journal) Has(key string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return index(j.rec.Changes, key) >= 0
}

// Restored says what Restore did.
type Restored struct {
	Restored []Change // put back to Before, and read back
	Left     []string // sentences: what was not put back, and why
}

// Restore puts every recorded parameter back, the last change first, reads each
// back and removes the journal when nothing is left to do.
func (j *Journal) Restore() (Restored, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out Restored
	todo, err := j.restorable(&out)
	if err != nil {
		return out, err
	}
	// Global switches come first: writing one writes every interface, whose own
	// values are then put right one by one.
	slices.SortStableFunc(todo, func(a, b Change) int { return rank(a.Key) - rank(b.Key) })
	var failed []error
	for _, c := range todo {
		now, err := Get(c.Key)
		if err == nil && now != c.Before {
			err = Set(c.Key, c.Before)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return out, errors.Join(failed...)
	}
	for _, c := range todo {
		if now, err := Get(c.Key); err == nil && now != c.Before {
			return out, fmt.Errorf("sysctl %s is %s after it was set back to %s", dotted(c.Key), now, c.Before)
		}
	}
	out.Restored = slices.DeleteFunc(todo, func(c Change) bool { return c.Before == c.After })
	if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return out, fmt.Errorf("remove the record of changed sysctls: %w", err)
	}
	j.rec.Changes = nil
	return out, nil
}

// restorable picks, last first, the changes that are still as we made them. All
// are judged before any is undone, because undoing one can change others.
func (j *Journal) restorable(out *Restored) ([]Change, error) {
	var todo []Change
	for _, c := range slices.Backward(j.rec.Changes) {
		now, err := Get(c.Key)
		switch {
		case errors.Is(err, fs.ErrNotExist): // its interface is gone
		case err != nil:
			return nil, err
		case now != c.After && now != c.Before:
			out.Left = append(out.Left, fmt.Sprintf("sysctl %s was %s, was set to %s here and has been changed to %s by somebody since: left so",
				dotted(c.Key), c.Before, c.After, now))
		default:
			// Also what is as it was: a global switch thrown back writes it.
			todo = append(todo, c)
		}
	}
	return todo, nil
}

func (j *Journal) save(changes []Change) error {
	rec := j.rec
	rec.Changes = changes
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the record of changed sysctls: %w", err)
	}
	if err := writeDurably(j.path, append(b, '\n')); err != nil {
		return fmt.Errorf("write the record of changed sysctls: %w", err)
	}
	j.rec = rec
	return nil
}

// writeDurably replaces path so that after a power cut it holds the old or the
// new content, whole.
func writeDurably(path string, b []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // a no-op after the rename
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func whereabouts() (record, error) {
	boot, err := Get("kernel/random/boot_id")
	if err != nil {
		return record{}, err
	}
	// The link's text names the namespace by the inode number of nsfs.
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return record{}, fmt.Errorf("find the network namespace: %w", err)
	}
	return record{Boot: boot, Namespace: ns}, nil
}

func index(changes []Change, key string) int {
	return slices.IndexFunc(changes, func(c Change) bool { return c.Key == key })
}

func rank(key string) int {
	switch {
	case key == "net/ipv4/ip_forward", strings.Contains(key, "/conf/all/"):
		return 0
	case strings.Contains(key, "/conf/default/"):
		return 1
	}
	return 2
}

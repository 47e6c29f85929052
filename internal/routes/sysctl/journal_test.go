package sysctl

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"portico.dev/portico/internal/routes/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

const key, other = "net/ipv4/conf/lo/forwarding", "net/ipv4/conf/lo/send_redirects"

func open(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func is(t *testing.T, key, want string) {
	t.Helper()
	if got, err := Get(key); err != nil || got != want {
		t.Errorf("%s is %q, %v; want %q", key, got, err, want)
	}
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// NET-02: the first value before is what is restored, over crashes and repeats.
func TestJournal(t *testing.T) {
	nstest.Need(t)
	path := filepath.Join(t.TempDir(), "sysctls.json")
	do(t, Set(key, "0"), Set(other, "1"))
	j := open(t, path)
	do(t, j.Set(other, "1")) // no change, no record
	if _, err := os.Stat(path); err == nil {
		t.Error("a record of nothing")
	}
	do(t, j.Set(key, "1"), Set(key, "0"))
	j = open(t, path) // a restart; somebody had put it back
	do(t, j.Set(key, "1"), j.Set(other, "0"))
	do(t, Set(other, "1")) // somebody put this back himself
	r, err := j.Restore()
	if err != nil || len(r.Left) != 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	is(t, key, "0")
	is(t, other, "1")
	if _, err := os.Stat(path); err == nil {
		t.Error("the record is still there")
	}
}

// What somebody changed since to a third value is his, and said.
func TestJournalLeavesForeign(t *testing.T) {
	nstest.Need(t)
	const rp = "net/ipv4/conf/lo/rp_filter"
	do(t, Set(rp, "0"))
	j := open(t, filepath.Join(t.TempDir(), "sysctls.json"))
	do(t, j.Set(rp, "1"), Set(rp, "2"))
	r, err := j.Restore()
	if err != nil || len(r.Left) != 1 || !strings.Contains(r.Left[0], "net.ipv4.conf.lo.rp_filter was 0, was set to 1 here and has been changed to 2") {
		t.Errorf("got %+v, %v", r, err)
	}
	is(t, rp, "2")
}

// A record of another boot or namespace says nothing of this one; a damaged one is
// no reason to forget what was changed.
func TestJournalOfElsewhere(t *testing.T) {
	nstest.Need(t)
	path := filepath.Join(t.TempDir(), "sysctls.json")
	do(t, Set(key, "0"))
	do(t, open(t, path).Set(key, "1"))
	b, err := os.ReadFile(path)
	do(t, err)
	var rec record
	do(t, json.Unmarshal(b, &rec))
	rec.Boot = "another"
	b, err = json.Marshal(rec)
	do(t, err, os.WriteFile(path, b, 0o600))
	r, err := open(t, path).Restore()
	if err != nil || len(r.Restored) != 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	is(t, key, "1")
	do(t, os.WriteFile(path, b[:len(b)/2], 0o600))
	if _, err := OpenJournal(path); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged record: %v", err)
	}
}

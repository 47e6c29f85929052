package snapshot

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type fakeDB string

func (d fakeDB) Size() int64 { return int64(len(d)) }

func (d fakeDB) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(d))
	return int64(n), err
}

func archiveOf(t testing.TB, meta Meta) []byte {
	t.Helper()
	var out bytes.Buffer
	keys := Keys{"ca.crt": []byte("cert"), "ca.key": []byte("key"), "sa.key": []byte("tokens")}
	meta.Created = time.Unix(1, 0)
	if err := Write(&out, meta, keys, fakeDB(strings.Repeat("db", 5000))); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestRoundTrip(t *testing.T) {
	var db bytes.Buffer
	c, err := Read(bytes.NewReader(archiveOf(t, Meta{Revision: 7, Version: "v1"})), &db)
	if err != nil {
		t.Fatal(err)
	}
	if c.Meta.Revision != 7 || c.Meta.Version != "v1" || string(c.Keys["sa.key"]) != "tokens" || db.Len() != 10032 || c.DBSize != 10032 {
		t.Errorf("read %+v and %d bytes", c, db.Len())
	}
}

// Whatever byte is wrong or missing: the file is refused.
func TestDamage(t *testing.T) {
	good := archiveOf(t, Meta{})
	end := bytes.LastIndex(good, []byte(sumsFile))
	for at := 0; at < len(good); at += 97 {
		if _, err := Read(bytes.NewReader(good[:at]), io.Discard); !errors.Is(err, ErrDamaged) && at <= end+512 {
			t.Fatalf("cut at %d of %d: %v", at, len(good), err)
		}
	}
	db := bytes.Index(good, []byte("dbdb"))
	for _, at := range []int{db, db + 9999, db + 10031, bytes.Index(good, []byte("tokens"))} {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		if _, err := Read(bytes.NewReader(bad), io.Discard); !errors.Is(err, ErrDamaged) {
			t.Errorf("changed at %d: %v", at, err)
		}
	}
}

// What can't be restored changes nothing.
func TestRestoreRefuses(t *testing.T) {
	file := func(content []byte) string {
		name := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	with := func(name, content string) string {
		dir := t.TempDir()
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	good := archiveOf(t, Meta{StoreFormat: 1})
	for name, c := range map[string]struct{ file, dir, want string }{
		"truncated":       {file(good[:len(good)/2]), t.TempDir(), "not a whole snapshot"},
		"other file":      {file([]byte("hello")), t.TempDir(), "not a whole snapshot"},
		"newer store":     {file(archiveOf(t, Meta{StoreFormat: 2, Version: "v9"})), t.TempDir(), "formats up to 1: version v9 wrote it"},
		"store there":     {file(good), with("etcd/member/x", ""), "holds a store already"},
		"other's keys":    {file(good), with("pki/ca.crt", "other"), "pki/ca.crt is another cluster's"},
		"no database":     {file(good), t.TempDir(), "make the store from the snapshot"},
		"file is missing": {"/nowhere", t.TempDir(), "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			before := list(t, c.dir)
			_, err := Restore(c.file, c.dir, Member{"m", "http://localhost:2380"}, 1)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
			if after := list(t, c.dir); after != before {
				t.Errorf("files before: %s, after: %s", before, after)
			}
		})
	}
}

func list(t *testing.T, dir string) string {
	var out []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		out = append(out, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

// FuzzRead: no file makes it panic, and what it takes is whole.
func FuzzRead(f *testing.F) {
	good := archiveOf(f, Meta{StoreFormat: 1})
	f.Add(good)
	f.Add(good[:600])
	f.Add([]byte("hello"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var db bytes.Buffer
		c, err := Read(bytes.NewReader(raw), &db)
		if err == nil && (int64(db.Len()) != c.DBSize || len(c.Keys) != len(keyFiles)) {
			t.Errorf("took %+v with %d bytes", c, db.Len())
		}
	})
}

package serial

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func newHub(t *testing.T, path string) (*Hub, net.Conn) {
	t.Helper()
	record, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	ours, guest := net.Pipe()
	h := New(ours, record, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { h.Close(); guest.Close() })
	return h, guest
}

func want(t *testing.T, r io.Reader, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v, want %q", got, err, text)
	}
}

func TestSessionsShareTheConsole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	h, guest := newHub(t, path)
	first := h.Open()
	io.WriteString(guest, "login: ")
	want(t, first, "login: ")

	second := h.Open() // it sees what was printed before
	want(t, second, "login: ")
	go io.WriteString(second, "root\n")
	want(t, guest, "root\n")
	io.WriteString(guest, "hello")
	want(t, first, "hello")
	want(t, second, "hello")

	second.Close()
	if n, err := second.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a closed session read %d bytes, %v", n, err)
	}
	io.WriteString(guest, "!")
	want(t, first, "!")
	h.Close()
	if _, err := first.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the end: %v, want EOF", err)
	}

	// VM-06: the next daemon still shows it.
	h, _ = newHub(t, path)
	want(t, h.Open(), "login: hello!")
}

func TestASlowSessionHoldsNobodyUp(t *testing.T) {
	h, guest := newHub(t, filepath.Join(t.TempDir(), "console.log"))
	slow := h.Open()
	fast := h.Open()
	chunk := strings.Repeat("x", 1000)
	for range 2 * sessionQueue / len(chunk) {
		io.WriteString(guest, chunk)
		want(t, fast, chunk)
	}
	io.WriteString(guest, "end")
	want(t, fast, "end")
	h.Close()
	got, err := io.ReadAll(slow)
	if err != nil || len(got) != sessionQueue || !bytes.HasSuffix(got, []byte("xend")) {
		t.Errorf("the slow session got %d bytes, %v, want the last %d", len(got), err, sessionQueue)
	}
}

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console.log")
	l, err := OpenLog(path)
	if err != nil {
		t.Fatal(err)
	}
	chunk := []byte(strings.Repeat("y", 1000))
	for range 3 * maxLog / len(chunk) {
		if _, err := l.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Write([]byte("the end")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxLog {
		t.Errorf("the log has %d bytes, %v, want at most %d", info.Size(), err, maxLog)
	}
	tail, err := Tail(path, 8)
	if err != nil || string(tail) != "ythe end" || !bytes.HasSuffix(l.tail, tail) || len(l.tail) != scrollback {
		t.Errorf("tail %q, %v", tail, err)
	}
}

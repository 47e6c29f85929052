package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
)

// fakeQEMU answers on the other end of a pipe: answer gets each command's name
// and id and returns the lines to send.
func fakeQEMU(t *testing.T, answer func(command string, id uint64) []string) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		fmt.Fprint(theirs, `{"QMP": {"version": {}, "capabilities": ["oob"]}}`+"\r\n")
		in := bufio.NewScanner(theirs)
		for in.Scan() {
			var cmd struct {
				Execute string
				ID      uint64
			}
			if err := json.Unmarshal(in.Bytes(), &cmd); err != nil {
				t.Errorf("command %q: %v", in.Text(), err)
				return
			}
			lines := []string{fmt.Sprintf(`{"return": {}, "id": %d}`, cmd.ID)}
			if cmd.Execute != "qmp_capabilities" {
				lines = answer(cmd.Execute, cmd.ID)
			}
			if lines == nil {
				return
			}
			for _, l := range lines {
				fmt.Fprint(theirs, l+"\r\n")
			}
		}
	}()
	c, err := New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRepliesInterleaveWithEvents(t *testing.T) {
	c := fakeQEMU(t, func(command string, id uint64) []string {
		return []string{
			`{"timestamp": {"seconds": 10, "microseconds": 5}, "event": "RESET", "data": {"guest": true}}`,
			`{"return": {"status": "late answer to nobody"}, "id": 9999}`,
			fmt.Sprintf(`{"return": {"status": "running"}, "id": %d}`, id),
		}
	})
	var got struct{ Status string }
	if err := c.Execute(t.Context(), "query-status", nil, &got); err != nil {
		t.Fatal(err)
	}
	if got.Status != "running" {
		t.Errorf("status %q, want running", got.Status)
	}
	if e := <-c.Events(); e.Name != "RESET" || e.Time.Unix() != 10 {
		t.Errorf("event %+v, want RESET at second 10", e)
	}
}

func TestRefusalIsAnError(t *testing.T) {
	c := fakeQEMU(t, func(_ string, id uint64) []string {
		return []string{fmt.Sprintf(`{"error": {"class": "CommandNotFound", "desc": "no such thing"}, "id": %d}`, id)}
	})
	err := c.Execute(t.Context(), "fly", nil, nil)
	var refused *Error
	if !errors.As(err, &refused) || refused.Class != "CommandNotFound" || refused.Command != "fly" {
		t.Fatalf("got %v, want a CommandNotFound refusal of fly", err)
	}
}

func TestEndOfQEMUEndsWaiting(t *testing.T) {
	c := fakeQEMU(t, func(string, uint64) []string { return nil })
	if err := c.Execute(t.Context(), "quit", nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v, want ErrClosed", err)
	}
	if _, open := <-c.Events(); open {
		t.Error("events still open after the connection ended")
	}
	<-c.Done()
}

func TestContextEndsWaiting(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	c := fakeQEMU(t, func(string, uint64) []string { <-hold; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Execute(ctx, "query-status", nil, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
}

func TestNoGreeting(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() {
		fmt.Fprint(theirs, "SSH-2.0-OpenSSH_9\r\n")
		theirs.Close()
	}()
	_, err := New(t.Context(), ours)
	if err == nil || !strings.Contains(err.Error(), "greeting") {
		t.Fatalf("got %v, want an error about the greeting", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}`,
		`{"return": {}, "id": 1}`, `{"return": {}}`, `{"id": -1, "return": {}}`,
		`{"error": {"class": "GenericError", "desc": "x"}}`, `{"error": {"class": "GenericError", "desc": "x"}, "id": 7}`,
		`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}`, `[]`, `{`, ``, `null`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parse(line)
		if err != nil {
			return
		}
		kinds := 0
		for _, is := range []bool{m.greeting, m.reply != nil, m.failure != nil, m.event != nil} {
			if is {
				kinds++
			}
		}
		if kinds != 1 {
			t.Errorf("%q is %d kinds of message, want one: %+v", line, kinds, m)
		}
	})
}

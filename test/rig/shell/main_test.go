package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/test/rig"
)

// script runs commands in a host, as `echo COMMANDS | make rig-shell HOST=HOST` does.
func script(t *testing.T, host, commands string) (stdout, stderr string, err error) {
	t.Helper()
	rig.Need(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out, report bytes.Buffer
	err = run(ctx, host, nil, strings.NewReader(commands), &out, &report)
	return out.String(), report.String(), err
}

// Clients outside, in guests and on nodes reach Services by all doors and both families.
func TestScript(t *testing.T) {
	get := "curl --silent --show-error --max-time 5 "
	out, report, err := script(t, "outside", "set -e\n"+
		get+"10.96.0.20\n"+
		get+"-g 'http://[2001:db8:1::2]'\n"+
		"on b "+get+"10.96.0.21\n"+
		"on far "+get+"-g 'http://[2001:db8::2]:30080'\n"+
		"on node-b "+get+"10.96.0.20\n"+
		"on far "+get+"192.0.2.1:30081\n"+
		"on node-a nft list tables\n"+
		get+"10.96.0.22 || echo refused\n")
	if err != nil {
		t.Fatalf("%v\n%s", err, report)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	want := []string{"sees", "guest ", "guest a at 10.245.0.2:8080 sees 10.245.0.3", "guest ", "sees 10.244.1.1", "guest a at 10.245.0.2:8080 sees 203.0.113.9", "table ip portico", "table ip6 portico", "refused"}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s%s", len(lines), len(want), out, report)
	}
	for i, w := range want {
		if !strings.Contains(lines[i], w) {
			t.Errorf("line %d is %q, want %q", i+1, lines[i], w)
		}
	}
	for _, w := range []string{"* outside", "node-b", "198.51.100.2", "node port 30081"} {
		if !strings.Contains(report, w) {
			t.Errorf("%q isn't in what is printed at the start:\n%s", w, report)
		}
	}
}

// The shell may be in another host, and its exit code is the command's.
func TestHost(t *testing.T) {
	out, report, err := script(t, "node-a", "ip -4 -o address show dev uplink; exit 7")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 || !strings.Contains(out, "192.0.2.1/24") {
		t.Errorf("%v: %s%s", err, out, report)
	}
	if _, _, err := script(t, "nobody", ""); err == nil || !strings.Contains(err.Error(), "node-a") {
		t.Errorf("an unknown host: %v", err)
	}
	if _, _, err := script(t, "outside", "on nobody true"); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("a command on an unknown host: %v", err)
	}
}

// An interrupt ends the script with all that it started, and nothing stays.
func TestInterrupt(t *testing.T) {
	rig.Need(t)
	before := descriptors(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	started, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, "outside", nil, strings.NewReader("sleep 1000 & echo $!; sleep 1000\n"), out, io.Discard)
	}()
	buf := make([]byte, 20)
	n, err := started.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("an interrupted shell: %v", err)
	}
	pid := strings.TrimSpace(string(buf[:n]))
	for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what the script started outlived it")
		}
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

// alive reports whether a process runs; nobody may have buried it yet.
func alive(pid string) bool {
	raw, err := os.ReadFile("/proc/" + pid + "/stat")
	_, after, _ := strings.Cut(string(raw), ") ")
	return err == nil && !strings.HasPrefix(after, "Z")
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// Mistakes in a file are told with their place.
func TestLoad(t *testing.T) {
	for text, want := range map[string]string{
		"kind: Pod":                       `f.yaml, document 1: "Pod" is neither`,
		"kind: Service\nspec: {prots: 1}": "document 1:",
		"kind: EndpointSlice\nmetadata: {name: x, labels: {kubernetes.io/service-name: web}}": "before its Service",
		"kind: EndpointSlice\nmetadata: {name: x}":                                            "has no label",
	} {
		if _, err := parse("f.yaml", text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if views, err := load(nil); err != nil || len(views) != 3 {
		t.Errorf("its own services: %d, %v", len(views), err)
	}
}

package process

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
)

func TestFollowAndFindAgain(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("sleep", "300")
	cmd.Dir = dir
	child, err := Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer child.Release()
	defer func() { _ = child.Kill() }()

	// What the next daemon does with the note of this one.
	found, err := Find(child.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Release()
	pids, err := InDirectory(dir)
	if err != nil || !slices.Equal(pids, []int{child.ID.PID}) {
		t.Errorf("in %s runs %v, %v, want %d", dir, pids, err, child.ID.PID)
	}
	for name, wrong := range map[string]Identity{
		"another start time": {child.ID.PID, child.ID.Start + 1, child.ID.Boot},
		"an earlier boot":    {child.ID.PID, child.ID.Start, "00000000-0000-0000-0000-000000000000"},
	} {
		if _, err := Find(wrong); !errors.Is(err, ErrGone) {
			t.Errorf("%s: got %v, want ErrGone", name, err)
		}
	}
	select {
	case <-found.Done():
		t.Fatal("it runs, yet it is said to be done")
	default:
	}
	if err := found.Kill(); err != nil {
		t.Fatal(err)
	}
	<-found.Done()
	if got := child.Exit(); got != "signal: killed" {
		t.Errorf("it ended by %q", got)
	}
	if _, err := Find(child.ID); !errors.Is(err, ErrGone) {
		t.Errorf("after the end: %v, want ErrGone", err)
	}
	if err := child.Kill(); err != nil {
		t.Errorf("killing the dead: %v", err)
	}
}

func TestReleaseLeavesItRunning(t *testing.T) {
	p, err := Start(exec.Command("sleep", "300"))
	if err != nil {
		t.Fatal(err)
	}
	p.Release()
	again, err := Find(p.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Release()
	if err := again.Kill(); err != nil {
		t.Fatal(err)
	}
	<-again.Done()
	_ = p.cmd.Wait()
}

func TestMissingProgram(t *testing.T) {
	if _, err := Start(exec.Command("/nowhere/qemu")); err == nil {
		t.Error("a program that isn't there started")
	}
}

// TestInDirectoryOfAnotherNamespace shows that who works in a folder of the same path, in
// another mount namespace, isn't found.
func TestInDirectoryOfAnotherNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a mount namespace needs root")
	}
	if out, err := exec.Command("unshare", "-m", "true").CombinedOutput(); err != nil {
		t.Skipf("no mount namespace here: %v %s", err, out)
	}
	dir, other := t.TempDir(), t.TempDir()
	cmd := exec.Command("unshare", "-m", "sh", "-c", `mount --bind "$0" "$1" && cd "$1" && echo there && exec sleep 300`, other, dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Release()
	defer func() { _ = stranger.Kill() }()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "there\n" {
		t.Fatalf("it said %q, %v", line, err)
	}
	if to, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", stranger.ID.PID)); to != dir {
		t.Fatalf("it works in %s, %v: nothing to tell apart", to, err)
	}
	if pids, err := InDirectory(dir); err != nil || len(pids) > 0 {
		t.Errorf("found %v, %v", pids, err)
	}
}

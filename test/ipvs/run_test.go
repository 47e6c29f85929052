package ipvs

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/test/guest"
)

// modules are what the suite's networks and the data plane need of the guest's kernel.
// The schedulers are loaded on demand elsewhere; the guest has nobody who would do it.
var modules = []string{
	"xfrm_user", "veth", "bridge", "dummy", "br_netfilter", "nf_conntrack", "nf_conntrack_netlink", "nf_tables", "nft_ct", "nft_chain_nat", "nft_nat", "nft_masq", "nft_redir",
	"nft_reject_ipv4", "nft_reject_ipv6", "nft_fib_ipv4", "nft_fib_ipv6", "nft_numgen", "nft_hash", "nft_limit", "nft_quota", "nft_log",
	"ip_vs", "ip_vs_rr", "ip_vs_wrr", "ip_vs_lc", "ip_vs_wlc", "ip_vs_lblc", "ip_vs_lblcr", "ip_vs_sh", "ip_vs_mh", "ip_vs_dh", "ip_vs_sed", "ip_vs_nq", "ip_vs_fo",
}

// machine is how long a guest may take beyond its program's own limit.
const machine = time.Minute

// result is how one test of the program ended.
type result struct {
	name   string
	word   string // PASS, FAIL or SKIP
	took   string
	output []string
}

// runInGuest compiles the tests of a package, runs those that match in a guest, and gives
// their results in order.
func runInGuest(t *testing.T, pkg, match string, limit time.Duration, env ...string) []result {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("needs qemu-system-x86_64 (Debian: qemu-system-x86)")
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit+2*machine)
	defer cancel()
	cache, err := guest.CacheDir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", program, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("compile the tests of %s: %v\n%s", pkg, err, out)
	}
	made, err := guest.BuildSuite(ctx, guest.Options{Cache: cache, Logf: t.Logf}, guest.Suite{
		Program: program, Args: []string{"-test.v", "-test.run", match, "-test.timeout", limit.String()},
		Env: env, Modules: modules, Tools: []string{"nft", "cat"},
	}, dir)
	if err != nil {
		t.Skip(err)
	}
	return boot(ctx, t, made)
}

// boot runs the guest until it ends.
func boot(ctx context.Context, t *testing.T, made guest.Artifacts) []result {
	t.Helper()
	// One processor: emulation of several runs into code that another is just patching
	// (static keys), and the guest's kernel falls over it.
	cmd := exec.CommandContext(
		ctx, "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,tb-size=256", "-cpu", "max", "-smp", "1", "-m", "1536",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
		"-kernel", made.Kernel, "-initrd", made.Initrd, "-append", guest.SuiteKernelArgs,
		"-serial", "file:"+filepath.Join(filepath.Dir(made.Initrd), "kernel.log"),
		"-device", "virtio-serial-pci", "-chardev", "stdio,id=out", "-device", "virtconsole,chardev=out",
	)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	results, end := parse(bufio.NewScanner(out))
	err = cmd.Wait()
	if end != "ok" && !strings.HasPrefix(end, "exit status") || err != nil {
		log, _ := os.ReadFile(filepath.Join(filepath.Dir(made.Initrd), "kernel.log"))
		t.Errorf("the guest ended with %q: %v: %s\n%s", end, err, complaints.String(), tail(string(log)))
	}
	return results
}

func tail(log string) string {
	lines := strings.Split(log, "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

var resultLine = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (\S+) \((.*)\)$`)

// parse reads the output of a test program and how the guest says that it ended. What a
// test prints comes before its result, its log after it.
func parse(in *bufio.Scanner) (results []result, end string) {
	in.Buffer(nil, 1<<20)
	var before []string
	for in.Scan() {
		line := strings.TrimRight(in.Text(), "\r")
		if os.Getenv("PORTICO_GUEST_OUTPUT") != "" {
			fmt.Fprintln(os.Stderr, line)
		}
		if after, ok := strings.CutPrefix(line, "suite: "); ok {
			end = after
			continue
		}
		if strings.HasPrefix(line, "=== RUN   ") && !strings.Contains(line, "/") {
			before = nil
		}
		before = append(before, line)
		if m := resultLine.FindStringSubmatch(line); m != nil {
			results = append(results, result{name: m[2], word: m[1], took: m[3], output: before})
			before = nil
		}
	}
	if len(before) > 0 && len(results) > 0 {
		results[len(results)-1].output = append(results[len(results)-1].output, before...)
	} else if len(before) > 0 {
		results = append(results, result{name: "before the first test", word: "FAIL", output: before})
	}
	return results, end
}

// report makes a subtest of each result.
func report(t *testing.T, results []result) {
	t.Helper()
	if len(results) == 0 {
		t.Error("the guest ran no test")
	}
	for _, r := range results {
		t.Run(r.name, func(t *testing.T) {
			t.Logf("took %s in the guest", r.took)
			switch r.word {
			case "FAIL":
				t.Error(strings.Join(r.output, "\n"))
			case "SKIP":
				t.Skip(strings.Join(r.output, "\n"))
			}
		})
	}
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/vm"
)

// defaultGrace is the time that guests get to shut down: KubeVirt's own default of
// terminationGracePeriodSeconds.
const defaultGrace = 30 * time.Second

func newDown() *cobra.Command {
	d := &downRun{}
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop this host's guests and remove every trace from its network",
		Long: `Stop the guests of a data directory, remove Portico's tables, links, addresses and
routes from this network namespace, put changed kernel parameters back, and look
again: the exit code is 0 only when nothing is left. Objects and images stay, and
the next ` + "`portico up`" + ` starts from them; --purge removes them too.`,
		Example: `  portico down
  portico down --grace 5s
  portico down --purge`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.out, d.log = cmd.OutOrStdout(), newTerseLogger()
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&d.dataDir, "data-dir", defaultDataDir, "`folder` of the store, keys, images and guests")
	cmd.Flags().DurationVar(&d.grace, "grace", defaultGrace, "`time` that guests get to shut down before their power is taken away")
	cmd.Flags().BoolVar(&d.purge, "purge", false, "remove the data directory too, with all objects, keys and images")
	return cmd
}

// downRun is one run of `portico down`.
type downRun struct {
	dataDir string
	grace   time.Duration
	purge   bool
	out     io.Writer
	log     *slog.Logger
	found   bool // there was something to remove
	// afterGuests is called once no guest runs here, with what failed until then.
	afterGuests func(ctx context.Context, failed error) error
}

func (d *downRun) run(ctx context.Context) error {
	if err := d.check(); err != nil {
		return err
	}
	release, err := d.lock()
	if err != nil {
		return err
	}
	defer release()
	// One part's failure doesn't keep the next from cleaning up; the proof tells.
	failed := d.stopGuests(ctx)
	if ctx.Err() != nil {
		return errors.New("interrupted; some guests may run on, and their network is as it was; run `portico down` again")
	}
	if d.afterGuests != nil {
		if err := d.afterGuests(ctx, failed); err != nil {
			return err
		}
	}
	failed = errors.Join(failed, d.cleanNetwork(ctx))
	left, err := d.left()
	if err != nil {
		return errors.Join(failed, err)
	}
	for _, l := range left {
		d.say("Still there", l)
	}
	if failed != nil {
		return failed
	}
	if len(left) > 0 {
		return fmt.Errorf("something of Portico is left on this host: %s; run `portico down` again", strings.Join(left, ", "))
	}
	if d.purge {
		if err := d.removeData(); err != nil {
			return err
		}
	}
	if !d.found {
		fmt.Fprintln(d.out, "There was nothing to remove.")
	}
	_, err = fmt.Fprintln(d.out, "Checked: no guest of this data directory runs; this network namespace has no table, link, address or route of Portico.")
	return err
}

// say prints one thing that was done.
func (d *downRun) say(verb, what string) {
	d.found = true
	fmt.Fprintf(d.out, "%-12s %s\n", verb, what)
}

// check finds, before anything is changed, what would make the run a wrong one.
func (d *downRun) check() (err error) {
	if os.Geteuid() != 0 {
		return errors.New("`portico down` changes the kernel's network and needs root; run it with sudo")
	}
	if d.grace < 0 {
		return fmt.Errorf("--grace %v is negative; give a time such as 30s, or 0s to take the power away at once", d.grace)
	}
	if d.dataDir, err = filepath.Abs(d.dataDir); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	if info, err := os.Stat(d.dataDir); err == nil && !info.IsDir() {
		return fmt.Errorf("--data-dir %s is no folder; give the one that `portico up` was given", d.dataDir)
	}
	last, err := readRunRecord(d.dataDir)
	if err != nil {
		return err
	}
	return checkNamespace(last, "portico down")
}

// checkNamespace refuses to clean, and to prove clean, another network namespace
// than the one in which Portico ran. One that has no process left took all with it.
func checkNamespace(last *runRecord, command string) error {
	if last == nil || !last.Agent {
		return nil
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	here, err := ownNamespace()
	if err != nil || last.Boot != boot || last.Namespace == here {
		return err
	}
	if pid := inNamespace(last.Namespace); pid > 0 {
		return fmt.Errorf("this data directory's Portico ran in another network namespace, %s; run `nsenter -t %d -n %s` with the same flags", last.Namespace, pid, command)
	}
	return nil
}

// lock keeps `portico up` away while the host is cleaned. Without a data directory
// there is nothing that it could run on.
func (d *downRun) lock() (release func(), err error) {
	var releases []func()
	release = func() {
		for _, r := range slices.Backward(releases) {
			r()
		}
	}
	file := filepath.Join(d.dataDir, lockFile)
	if f, err := os.OpenFile(file, os.O_RDWR, 0); err == nil {
		if err := flock(f); err != nil {
			f.Close()
			return nil, fmt.Errorf("a Portico runs on --data-dir %s%s; stop it first, then run `portico down` again", d.dataDir, lockedBy(file))
		}
		releases = append(releases, func() { f.Close() })
	}
	unclaim, err := claimNamespace()
	if err != nil {
		release()
		return nil, err
	}
	releases = append(releases, unclaim)
	return release, nil
}

// stopGuests shuts all guests down at once, and ends what doesn't listen.
func (d *downRun) stopGuests(ctx context.Context) error {
	dir := guestsDir(d.dataDir)
	err := d.shutDown(ctx, dir)
	if ctx.Err() != nil {
		return err
	}
	killed, killErr := vm.KillLeftover(dir)
	for _, pid := range killed {
		d.say("Killed", fmt.Sprintf("QEMU process %d", pid))
	}
	return errors.Join(err, killErr)
}

func (d *downRun) shutDown(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return nil //nolint:nilerr // there never was a guest
	}
	// Their links go with all others; the machines know nothing of them here.
	guests, err := vm.Open(vm.Config{Dir: dir, Log: d.log})
	if err != nil {
		return err
	}
	defer guests.Close()
	adoptErr := guests.Adopt(ctx)
	var done [][2]string
	for _, g := range guests.Guests() {
		name := "guest " + g.Spec.Namespace + "/" + g.Spec.Name
		if s := g.Status(); s.Over() {
			done = append(done, [2]string{"Removed", name + ", which had ended: " + s.Message})
		} else {
			done = append(done, [2]string{"Stopped", name})
		}
	}
	if err := guests.StopAll(ctx, d.grace); err != nil {
		return errors.Join(adoptErr, err)
	}
	slices.SortFunc(done, func(a, b [2]string) int { return strings.Compare(a[1], b[1]) })
	for _, line := range done {
		d.say(line[0], strings.TrimSuffix(line[1], ": "))
	}
	return adoptErr
}

// cleanNetwork removes what the data plane, the node's network and the guests' links
// put into this network namespace.
func (d *downRun) cleanNetwork(ctx context.Context) error {
	removed, planeErr := removeTechniques(ctx, d.log)
	for _, what := range removed {
		d.say("Removed", what)
	}
	report, err := routes.Teardown(filepath.Join(d.dataDir, "node"))
	for _, r := range report.Removed {
		d.say("Removed", r)
	}
	for _, c := range report.Restored {
		d.say("Restored", fmt.Sprintf("sysctl %s = %s", strings.ReplaceAll(c.Key, "/", "."), c.Before))
	}
	for _, l := range report.Left {
		d.say("Left", l)
	}
	return errors.Join(planeErr, err)
}

// left lists what of Portico is on this host now.
func (d *downRun) left() ([]string, error) {
	left, err := routes.Remains()
	if err != nil {
		return nil, err
	}
	rules, err := techniquesRemain()
	if err != nil {
		return nil, err
	}
	for _, what := range rules {
		if !slices.Contains(left, what) {
			left = append(left, what)
		}
	}
	pids, err := vm.Leftover(guestsDir(d.dataDir))
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		left = append(left, fmt.Sprintf("QEMU process %d", pid))
	}
	return left, nil
}

// removeData removes what Portico keeps in the data directory, and the folder itself
// when nothing else is in it.
func (d *downRun) removeData() error {
	if _, err := os.Stat(d.dataDir); err != nil {
		return nil //nolint:nilerr // there is none
	}
	for _, name := range dataEntries {
		if err := os.RemoveAll(filepath.Join(d.dataDir, name)); err != nil {
			return fmt.Errorf("--purge: %w", err)
		}
	}
	if err := os.Remove(d.dataDir); err != nil {
		d.say("Purged", d.dataDir+"; the folder stays, it holds files that aren't Portico's")
		return nil //nolint:nilerr // somebody else's files are to stay
	}
	d.say("Purged", d.dataDir)
	return nil
}

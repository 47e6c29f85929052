package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

// Exit codes of verify, as of diff(1) and grep(1).
const (
	exitDifferent exitError = 1
	exitTrouble   exitError = 2
)

// verifyPause lies between two looks; an agent at work needs some 10 ms for a change.
const verifyPause = 100 * time.Millisecond

func newDataplaneVerify(d *dataplaneRun) *cobra.Command {
	var settle time.Duration
	trouble := func(cmd *cobra.Command, err error) error {
		if err == nil {
			return nil
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "portico: %s\n", sentence(err))
		return exitTrouble
	}
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Compare the kernel with what the API asks of this node",
		Long: `Read this node's tables from the kernel and compare them, element by element and rule by
rule, with what the API's Services, EndpointSlices, ServiceCIDRs and this Node ask for,
as the agent computes it. Each difference is a line.

The exit code is 0 when both are equal, 1 when they differ, 2 when they could not be
compared. An agent at work is always some milliseconds behind the API, so a difference
counts when it lasts as long as --settle says.`,
		Example: `  portico dataplane verify
  portico dataplane verify --settle 5s
  portico dataplane verify --data-dir /srv/portico --kubeconfig /etc/portico/kubeconfig`,
		Args: func(cmd *cobra.Command, args []string) error { return trouble(cmd, noArguments(cmd, args)) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := d.verify(cmd.Context(), settle, cmd.OutOrStdout())
			if err == exitDifferent { //nolint:errorlint // it is never wrapped
				return err
			}
			return trouble(cmd, err)
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return trouble(cmd, flagError(cmd, err)) })
	cmd.Flags().DurationVar(&settle, "settle", time.Second, "`time` that a difference must last; 0s counts every one")
	return cmd
}

// verify prints the differences and returns exitDifferent, or says that there are none.
func (d *dataplaneRun) verify(ctx context.Context, settle time.Duration, out io.Writer) error {
	if err := d.open("portico dataplane verify"); err != nil {
		return err
	}
	if settle < 0 {
		return fmt.Errorf("--settle %v is negative; give a time such as 1s, or 0s", settle)
	}
	kernel, err := d.inspect()
	if err != nil {
		return err
	}
	defer kernel.Close() //nolint:errcheck // only sockets are closed
	want, err := d.wants(ctx)
	if err != nil {
		return err
	}
	defer want.close()
	found, err := lasting(ctx, settle, func() ([]string, error) { return kernel.Verify(ctx, want.site, want.State()) })
	if err != nil {
		return err
	}
	for _, line := range found {
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	if len(found) > 0 {
		return exitDifferent
	}
	_, err = fmt.Fprintf(out, "The kernel has what the API asks of node %s: %d frontends.\n", d.last.NodeName, len(want.State().Frontends))
	return err
}

// lasting looks until nothing is found or settle has passed, and gives what was found
// each time.
func lasting(ctx context.Context, settle time.Duration, look func() ([]string, error)) (found []string, err error) {
	begun := time.Now()
	for first := true; ; first = false {
		now, err := look()
		if err != nil {
			return nil, err
		}
		if first {
			found = now
		} else {
			found = slices.DeleteFunc(found, func(line string) bool { return !slices.Contains(now, line) })
		}
		if len(found) == 0 || time.Since(begun) >= settle {
			return found, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(verifyPause):
		}
	}
}

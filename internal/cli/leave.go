package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/bootstrap"
	"portico.dev/portico/internal/kubevirt"
)

// leaveRequest is how long one request to the API may take.
const leaveRequest = 20 * time.Second

func newLeave() *cobra.Command {
	l := &leave{down: &downRun{}, drain: &drain{force: true}}
	cmd := &cobra.Command{
		Use:   "leave",
		Short: "Take this host out of the cluster that it has joined",
		Long: `Ends what ` + "`portico join`" + ` began: guests of this node are shut down and start on other
nodes, a running agent is stopped, the Node is deleted, this host's network is put
back as ` + "`portico down`" + ` does it, and its identity is forgotten. Images stay. A guest whose
disk lies on this host is not stopped, and nothing else is done, until it is stopped by
hand. With --force a host leaves also when the API can't be reached.`,
		Example: `  portico leave
  portico leave --grace 10s
  portico leave --force        # the server is gone`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l.down.out, l.down.log = cmd.OutOrStdout(), newTerseLogger()
			return l.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&l.down.dataDir, "data-dir", defaultDataDir, "`folder` of this node's identity and guests")
	cmd.Flags().DurationVar(&l.down.grace, "grace", defaultGrace, "`time` that guests get to shut down before their power is taken away")
	cmd.Flags().DurationVar(&l.drain.timeout, "timeout", defaultDrainTimeout, "`time` after which emptying the node is given up")
	cmd.Flags().BoolVar(&l.force, "force", false, "clean this host also where the API can't be reached")
	return cmd
}

// leave is one run of `portico leave`.
type leave struct {
	down  *downRun
	drain *drain
	force bool

	home   bootstrap.Home
	member *bootstrap.Member
	kube   kubernetes.Interface // nil: the API can't be reached
}

func (l *leave) run(ctx context.Context) (err error) {
	if err := errors.Join(l.down.check(), l.drain.check()); err != nil {
		return err
	}
	if err := l.find(); err != nil {
		return err
	}
	if err := l.reach(ctx); err != nil {
		return err
	}
	if pid := lockHolder(filepath.Join(l.down.dataDir, lockFile)); pid > 0 {
		if err := l.stopAgent(ctx, pid); err != nil {
			return err
		}
	}
	l.down.afterGuests = l.unregister
	if err := l.down.run(ctx); err != nil {
		return err
	}
	return l.forget(l.down.out)
}

// find reads who this host is.
func (l *leave) find() (err error) {
	l.home = homeOf(l.down.dataDir)
	l.member, err = l.home.Read()
	if err != nil || l.member != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(l.down.dataDir, "pki")); err == nil {
		return fmt.Errorf("this host runs the API itself and has joined nobody; `portico down --data-dir %s` ends it", l.down.dataDir)
	}
	return fmt.Errorf("this host has joined no cluster: %s isn't there; is --data-dir the one that `portico join` was given?", l.home)
}

// reach finds before anything is changed whether the API answers.
func (l *leave) reach(ctx context.Context) error {
	config := asAgent(l.home.Config(l.member))
	config.Timeout = leaveRequest
	kube, err := kubernetes.NewForConfig(config)
	if err == nil {
		l.drain.vms, err = kubevirt.NewForConfig(config, nil)
	}
	if err == nil {
		_, err = kube.CoreV1().Nodes().Get(ctx, l.member.Node, metav1.GetOptions{})
	}
	switch {
	case err == nil || apierrors.IsNotFound(err):
		l.kube = kube
		l.drain.kube, l.drain.node, l.drain.out, l.drain.grace = kube, l.member.Node, l.down.out, l.down.grace
		return nil
	case l.force:
		l.down.say("Unreachable", fmt.Sprintf("%s: %v; delete the node there by `kubectl delete node %s`", l.member.Server, err, l.member.Node))
		return nil
	}
	return fmt.Errorf("the API can't be asked to let node %s go: %w; try again when it answers, or clean this host alone by `portico leave --force` and delete the node there", l.member.Node, err)
}

// stopAgent empties the node while its agent runs, which takes guests out of their
// Services before it stops them, has others take its load-balancer addresses, and then
// stops the agent.
func (l *leave) stopAgent(ctx context.Context, pid int) error {
	if l.kube != nil {
		err := l.drain.run(ctx)
		if err != nil && !l.force {
			return err
		}
	}
	if err := leaveAnnouncements(l.down.dataDir); err != nil && !l.force {
		return fmt.Errorf("have other nodes take this one's load-balancer addresses: %w; `portico leave --force` goes on without", err)
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop this node's agent (process %d): %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, l.drain.timeout)
	defer cancel()
	err := until(ctx, func() (bool, error) { return lockHolder(filepath.Join(l.down.dataDir, lockFile)) != pid, nil })
	if err != nil {
		return fmt.Errorf("this node's agent (process %d) doesn't stop: %w", pid, err)
	}
	l.down.say("Stopped", fmt.Sprintf("agent, process %d", pid))
	return nil
}

// unregister takes this node's objects away. No guest runs here now, so what is left of
// its pods may start elsewhere at once.
func (l *leave) unregister(ctx context.Context, failed error) error {
	if failed != nil {
		return fmt.Errorf("node %s stays in the cluster, for not all of its guests are off: %w", l.member.Node, failed)
	}
	if l.kube == nil {
		return nil
	}
	pods, err := l.drain.pods(ctx)
	if err != nil {
		return err
	}
	now := int64(0)
	for _, pod := range pods {
		err := l.kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("release %s: %w", guestName(pod), err)
		}
		l.down.say("Released", guestName(pod))
	}
	for what, remove := range map[string]func(context.Context, string, metav1.DeleteOptions) error{
		"Lease": l.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete,
		"Node":  l.kube.CoreV1().Nodes().Delete,
	} {
		if err := remove(ctx, l.member.Node, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %s %s: %w", what, l.member.Node, err)
		}
	}
	l.down.say("Deleted", "node "+l.member.Node)
	return nil
}

// forget removes the identity, last of all: until then a second run goes on.
func (l *leave) forget(out io.Writer) error {
	if err := l.home.Remove(); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(l.down.dataDir, kubeconfigFile)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove the node's kubeconfig: %w", err)
	}
	_, err := fmt.Fprintf(out, "This host is no node of %s any more.\n", l.member.Server)
	return err
}

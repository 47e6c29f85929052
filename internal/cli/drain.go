package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/kubevirt"
)

const (
	defaultDrainTimeout = 5 * time.Minute
	drainLook           = 200 * time.Millisecond
	// drainRounds is how often those that come after the cordon are stopped, too: the
	// scheduler hears of it long before the first have ended. What tolerates the cordon
	// comes back each time.
	drainRounds = 3
	// successorWait is how long the successor of a stopped guest is waited for, to say
	// where it runs. One that isn't started by itself has none.
	successorWait = 5 * time.Second
)

func newNode() *cobra.Command {
	c := &client{}
	d := &drain{}
	drainCmd := &cobra.Command{
		Use: "drain NODE", Short: "Take a node's guests elsewhere, and let none come", Args: oneArgument("NODE"),
		Long: `Keeps new guests from a node, shuts down those that run there, and says where each
runs afterwards, or why it waits. A guest whose disk lies on this node, and which
isn't bound to it, would start elsewhere without its disk: it is left running, and
named. So is what nobody would start again; --force stops that too. The exit code is 0
when the node is empty. ` + "`portico node uncordon`" + ` lets guests come again.`,
		Example: `  portico node drain b
  portico node drain b --grace 10s --timeout 2m`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := d.check(); err != nil {
				return err
			}
			config, kube, err := c.kube()
			if err != nil {
				return err
			}
			if d.vms, err = kubevirt.NewForConfig(config, nil); err != nil {
				return err
			}
			d.kube, d.node, d.out = kube, args[0], cmd.OutOrStdout()
			return d.run(cmd.Context())
		},
	}
	d.flags(drainCmd)
	cmd := &cobra.Command{Use: "node", Short: "Empty nodes, and use them again", Example: `  portico node drain b
  portico node uncordon b`}
	c.flags(cmd)
	cmd.PersistentFlags().Lookup("namespace").Hidden = true // guests of all namespaces are on a node
	return group(cmd, drainCmd,
		cordonCommand(c, "cordon", "Let no more guests come to a node", true),
		cordonCommand(c, "uncordon", "Let guests come to a node again", false))
}

func cordonCommand(c *client, verb, short string, closed bool) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NODE", Short: short, Args: oneArgument("NODE"), Example: "  portico node " + verb + " b",
		RunE: func(cmd *cobra.Command, args []string) error {
			_, kube, err := c.kube()
			if err != nil {
				return err
			}
			if err := cordon(cmd.Context(), kube, args[0], closed); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Node %s is %sed\n", args[0], verb)
			return err
		},
	}
}

func cordon(ctx context.Context, kube kubernetes.Interface, node string, closed bool) error {
	patch := fmt.Sprintf(`{"spec":{"unschedulable":%v}}`, closed)
	_, err := kube.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("there is no node %s; `portico status` lists them", node)
	}
	if err != nil {
		return fmt.Errorf("cordon node %s: %w", node, err)
	}
	return nil
}

// drain empties one node.
type drain struct {
	grace, timeout time.Duration
	force          bool

	node string
	kube kubernetes.Interface
	vms  *kubevirt.Client
	out  io.Writer
}

func (d *drain) flags(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&d.grace, "grace", -1, "`time` that guests get to shut down (default: each guest's own)")
	cmd.Flags().DurationVar(&d.timeout, "timeout", defaultDrainTimeout, "`time` after which it is given up")
	cmd.Flags().BoolVar(&d.force, "force", false, "stop also what nobody starts again")
}

func (d *drain) check() error {
	if d.timeout <= 0 {
		return fmt.Errorf("--timeout %v leaves no time; give one such as 5m", d.timeout)
	}
	return nil
}

func (d *drain) say(verb, format string, args ...any) {
	fmt.Fprintf(d.out, "%-12s %s\n", verb, fmt.Sprintf(format, args...))
}

func (d *drain) run(ctx context.Context) error {
	if err := cordon(ctx, d.kube, d.node, true); err != nil {
		return err
	}
	d.say("Cordoned", "node %s", d.node)
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	var stopped []*corev1.Pod
	var left []string
	seen := map[types.UID]bool{}
	for round := 1; ; round++ {
		// Again after all were gone: the scheduler may not have known yet that the node
		// takes nobody.
		pods, err := d.pods(ctx)
		if err != nil {
			return err
		}
		pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return seen[p.UID] })
		if len(pods) == 0 {
			break
		}
		if round > drainRounds {
			return fmt.Errorf("node %s isn't empty after %d rounds, there came again: %s; do they tolerate the taint %s?",
				d.node, drainRounds, guestNames(pods), corev1.TaintNodeUnschedulable)
		}
		ending, kept, err := d.stopAll(ctx, pods)
		if err != nil {
			return err
		}
		if err := d.await(ctx, ending); err != nil {
			return err
		}
		for _, p := range pods {
			seen[p.UID] = true
			stopped = slices.DeleteFunc(stopped, func(before *corev1.Pod) bool { return guestName(before) == guestName(p) })
		}
		stopped, left = append(stopped, ending...), append(left, kept...)
	}
	d.successors(ctx, stopped)
	if len(left) > 0 {
		return fmt.Errorf("node %s is cordoned, but not empty: %s", d.node, strings.Join(left, ", "))
	}
	d.say("Empty", "node %s", d.node)
	return nil
}

// stopAll stops pods, and gives those that end and the names of those that it leaves.
func (d *drain) stopAll(ctx context.Context, pods []*corev1.Pod) (ending []*corev1.Pod, left []string, err error) {
	for _, pod := range pods {
		why, err := d.keeps(ctx, pod)
		if err != nil {
			return nil, nil, err
		}
		if why != "" {
			d.say("Left", "%s: %s", guestName(pod), why)
			left = append(left, guestName(pod))
			continue
		}
		if err := d.stop(ctx, pod); err != nil {
			return nil, nil, err
		}
		ending = append(ending, pod)
	}
	return ending, left, nil
}

// pods are those of the node that haven't ended; a DaemonSet's and a kubelet's own (mirror
// pods, which it makes again at once) belong to the node.
func (d *drain) pods(ctx context.Context) ([]*corev1.Pod, error) {
	list, err := d.kube.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", d.node).String()})
	if err != nil {
		return nil, fmt.Errorf("list the pods of node %s: %w", d.node, err)
	}
	var out []*corev1.Pod
	for i := range list.Items {
		p := &list.Items[i]
		owner := metav1.GetControllerOf(p)
		_, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || mirror || owner != nil && owner.Kind == "DaemonSet" {
			continue
		}
		out = append(out, p)
	}
	return out, nil
}

// guestName is how people know what runs in a pod.
func guestName(pod *corev1.Pod) string {
	if owner := instanceOf(pod); owner != nil {
		return "guest " + pod.Namespace + "/" + owner.Name
	}
	return "pod " + pod.Namespace + "/" + pod.Name
}

func guestNames(pods []*corev1.Pod) string {
	var names []string
	for _, p := range pods {
		names = append(names, guestName(p))
	}
	return strings.Join(names, ", ")
}

// instanceOf is the instance that a pod runs; nil: it runs something else.
func instanceOf(pod *corev1.Pod) *metav1.OwnerReference {
	if owner := metav1.GetControllerOf(pod); owner != nil && owner.Kind == kubevirtv1.VirtualMachineInstanceGroupVersionKind.Kind {
		return owner
	}
	return nil
}

// keeps says why a pod isn't to be stopped; "" when it is.
func (d *drain) keeps(ctx context.Context, pod *corev1.Pod) (string, error) {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return d.unlessForced("nobody starts it again"), nil
	}
	if instanceOf(pod) == nil {
		return "", nil
	}
	vmi, err := d.vms.VirtualMachineInstances(pod.Namespace).Get(ctx, owner.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read VirtualMachineInstance %s/%s: %w", pod.Namespace, owner.Name, err)
	}
	if metav1.GetControllerOf(vmi) == nil {
		return d.unlessForced("it belongs to no VirtualMachine that would start it again"), nil
	}
	bound := vmi.Spec.NodeSelector[corev1.LabelHostname] == d.node
	for _, v := range vmi.Spec.Volumes {
		if v.HostDisk != nil && !bound {
			return fmt.Sprintf("its disk %s is on this node; stop it by `portico vm stop %s -n %s`, or bind it here by the nodeSelector %s: %s",
				v.HostDisk.Path, vmi.Name, vmi.Namespace, corev1.LabelHostname, d.node), nil
		}
	}
	return "", nil
}

func (d *drain) unlessForced(why string) string {
	if d.force {
		return ""
	}
	return why + "; --force stops it"
}

// stop ends what runs in a pod. A guest is ended by its instance, so that its end isn't
// taken for a failure, after which it would start late.
func (d *drain) stop(ctx context.Context, pod *corev1.Pod) error {
	if owner := instanceOf(pod); owner != nil {
		opts := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(owner.UID))}
		err := d.vms.VirtualMachineInstances(pod.Namespace).Delete(ctx, owner.Name, opts)
		if err != nil && !passed(err) && !apierrors.IsForbidden(err) { // to a node that leaves it is
			return fmt.Errorf("stop %s: %w", guestName(pod), err)
		}
		if err == nil && d.grace < 0 {
			return nil // its pod follows
		}
	}
	opts := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))}
	if d.grace >= 0 {
		// 0 would take the object away before the guest has ended.
		seconds := max(1, int64(d.grace.Round(time.Second).Seconds()))
		opts.GracePeriodSeconds = &seconds
	}
	if err := d.kube.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, opts); err != nil && !passed(err) {
		return fmt.Errorf("stop %s: %w", guestName(pod), err)
	}
	return nil
}

// passed says that what was to be deleted is gone, or that another has its name now.
func passed(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

// await waits until all are gone.
func (d *drain) await(ctx context.Context, pods []*corev1.Pod) error {
	for i, pod := range pods {
		err := until(ctx, func() (bool, error) {
			now, err := d.kube.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return true, nil
			}
			return err == nil && now.UID != pod.UID, err
		})
		if err != nil {
			return fmt.Errorf("node %s isn't empty after %v, still there: %s: %w; does its agent run?", d.node, d.timeout, guestNames(pods[i:]), err)
		}
	}
	return nil
}

// until asks now and then whether something is done, until ctx ends.
func until(ctx context.Context, done func() (bool, error)) error {
	ticker := time.NewTicker(drainLook)
	defer ticker.Stop()
	for {
		ok, err := done()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// successors says what became of each guest.
func (d *drain) successors(ctx context.Context, pods []*corev1.Pod) {
	ctx, cancel := context.WithTimeout(ctx, successorWait)
	defer cancel()
	for _, pod := range pods {
		verb, words := "Stopped", guestName(pod)
		if metav1.GetControllerOf(pod) == nil { // nobody starts it again
			d.say(verb, "%s", words)
			continue
		}
		_ = until(ctx, func() (bool, error) { // its end is an answer, too
			next := d.successor(ctx, pod)
			if next == nil {
				return false, nil
			}
			if next.Spec.NodeName != "" {
				verb, words = "Moved", guestName(pod)+" to "+next.Spec.NodeName
				return true, nil
			}
			for _, c := range next.Status.Conditions {
				if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
					verb, words = "Waiting", guestName(pod)+": "+c.Message
					return true, nil
				}
			}
			return false, nil
		})
		d.say(verb, "%s", words)
	}
}

// successor is the pod that now stands for the same guest; nil: none.
func (d *drain) successor(ctx context.Context, pod *corev1.Pod) *corev1.Pod {
	owner := metav1.GetControllerOf(pod)
	list, err := d.kube.CoreV1().Pods(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil
	}
	for i := range list.Items {
		p := &list.Items[i]
		o := metav1.GetControllerOf(p)
		if o != nil && o.Kind == owner.Kind && o.Name == owner.Name && p.UID != pod.UID && p.DeletionTimestamp == nil {
			return p
		}
	}
	return nil
}

// Package register keeps the node's own objects: the Node, with its addresses and
// its Ready condition, and the Lease whose renewal shows that the node lives.
//
// In: what the node knows of itself. Out: writes of Node, nodes/status and one Lease
// in kube-node-lease. It never writes another node's objects, nor spec.podCIDRs,
// which a controller cuts.
package register

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
)

const (
	// A Lease that was not renewed for 40 s makes its node NotReady: upstream's
	// numbers, so that stock controllers judge our nodes as their own.
	leaseDuration = 40 * time.Second
	leaseRenewal  = 10 * time.Second
	// healthLook is how soon a change of the node's health is reported; looking
	// costs no request.
	healthLook = 200 * time.Millisecond
	// startAllowance is how long an agent that starts again may leave its Node
	// Ready, as the run before it did, until it has begun. Packets and guests went
	// on meanwhile; a moment of NotReady would take the node's DNS out of service.
	startAllowance = 10 * time.Second
	// retryPause separates attempts to write while the API is away.
	retryPause = 2 * time.Second
)

// Node is what the node knows of itself.
type Node struct {
	Name      string
	Addresses []netip.Addr // one per family, the primary first
	DoorPort  int32        // 0: no door
	Memory    int64        // bytes
	Guests    int64        // how many may run here; 0: none
	Version   string
	Limits    func() string // says what of Services this node doesn't serve; nil: it serves all
}

// ServicesLimited is the condition of a node that may not serve all of Services' addresses.
const ServicesLimited corev1.NodeConditionType = "ServicesLimited"

// Registration keeps a node's objects.
type Registration struct {
	kube kubernetes.Interface
	log  *slog.Logger
	node Node
}

// New prepares the registration of a node.
func New(kube kubernetes.Interface, node Node, log *slog.Logger) *Registration {
	return &Registration{kube: kube, node: node, log: log}
}

// Register creates or refreshes the Node, not Ready yet, and waits until a
// controller has cut its pod ranges, one per family of the cluster.
func (r *Registration) Register(ctx context.Context) ([]netip.Prefix, error) {
	if err := r.ensure(ctx); err != nil {
		return nil, err
	}
	w, err := r.kube.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", r.node.Name).String()})
	if err != nil {
		return nil, fmt.Errorf("watch Node %s: %w", r.node.Name, err)
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		node, ok := event.Object.(*corev1.Node)
		if !ok || event.Type == watch.Deleted || len(node.Spec.PodCIDRs) == 0 {
			continue
		}
		return parse(node)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("the watch of Node %s ended before its pod ranges were cut", r.node.Name)
}

func parse(node *corev1.Node) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, len(node.Spec.PodCIDRs))
	for i, s := range node.Spec.PodCIDRs {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("Node %s has a malformed spec.podCIDRs[%d]: %w", node.Name, i, err)
		}
		out[i] = p
	}
	return out, nil
}

// ensure creates the Node or takes over the one of an earlier run. An API that is
// not there yet is waited for.
func (r *Registration) ensure(ctx context.Context) error {
	for {
		err := r.tryEnsure(ctx)
		if err == nil || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsInvalid(err) {
			return err
		}
		r.log.Warn("The Node was not written; trying again", "error", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(retryPause):
		}
	}
}

func (r *Registration) tryEnsure(ctx context.Context) error {
	labels := map[string]string{
		corev1.LabelHostname: r.node.Name, corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
	}
	node, err := r.kube.CoreV1().Nodes().Get(ctx, r.node.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = r.kube.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.node.Name, Labels: labels}}, metav1.CreateOptions{})
	} else if err == nil {
		changed := false
		for k, v := range labels {
			if node.Labels[k] != v {
				if node.Labels == nil {
					node.Labels = map[string]string{}
				}
				node.Labels[k], changed = v, true
			}
		}
		if changed {
			_, err = r.kube.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
		}
	}
	if err != nil {
		return fmt.Errorf("register Node %s: %w", r.node.Name, err)
	}
	return nil
}

// Run marks the node Ready and keeps its Lease until ctx ends. addresses gives the
// node's addresses whenever they change. healthy says why the node should take no
// workloads, nil when it should.
func (r *Registration) Run(ctx context.Context, addresses <-chan []netip.Addr, healthy func() error) error {
	ticker := time.NewTicker(leaseRenewal)
	defer ticker.Stop()
	looks := time.NewTicker(healthLook)
	defer looks.Stop()
	start, begun := time.Now(), false
	for {
		trouble, limits := healthy(), r.limits()
		begun = begun || trouble == nil || time.Since(start) >= startAllowance
		err := errors.Join(r.report(ctx, trouble, begun), r.renew(ctx))
		if err != nil && ctx.Err() == nil {
			r.log.Warn("This node's state was not reported; trying again", "error", err)
		}
		for again := true; again; {
			select {
			case <-ctx.Done():
				return nil
			case r.node.Addresses = <-addresses:
				again = false
			case <-ticker.C:
				again = false
			case <-looks.C:
				again = (healthy() == nil) == (trouble == nil) && r.limits() == limits
			}
		}
	}
}

// report writes the Node's status where it differs. What is Ready stays so until
// the agent has begun.
func (r *Registration) report(ctx context.Context, trouble error, begun bool) error {
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := r.kube.CoreV1().Nodes().Get(ctx, r.node.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		was := node.Status.DeepCopy()
		r.fill(&node.Status)
		r.limit(&node.Status)
		if begun || !isReady(was) {
			setCondition(&node.Status, readiness(trouble, metav1.Now()))
		}
		if equality.Semantic.DeepEqual(was, &node.Status) {
			return nil
		}
		_, err = r.kube.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		return r.tryEnsure(ctx) // somebody deleted us; we are still here
	}
	if err != nil {
		return fmt.Errorf("report the status of Node %s: %w", r.node.Name, err)
	}
	return nil
}

func (r *Registration) fill(status *corev1.NodeStatus) {
	status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: r.node.Name}}
	for _, a := range r.node.Addresses {
		status.Addresses = append(status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	room := corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(r.node.Memory, resource.BinarySI),
		corev1.ResourcePods:   *resource.NewQuantity(r.node.Guests, resource.DecimalSI),
	}
	status.Capacity, status.Allocatable = room, room
	status.DaemonEndpoints.KubeletEndpoint.Port = r.node.DoorPort
	status.NodeInfo.OperatingSystem, status.NodeInfo.Architecture = runtime.GOOS, runtime.GOARCH
	status.NodeInfo.KubeletVersion, status.NodeInfo.ContainerRuntimeVersion = r.node.Version, "qemu://"
}

func (r *Registration) limits() string {
	if r.node.Limits == nil {
		return ""
	}
	return r.node.Limits()
}

// limit says what isn't served; a node that serves all has no such condition.
func (r *Registration) limit(status *corev1.NodeStatus) {
	message := r.limits()
	if message == "" {
		status.Conditions = slices.DeleteFunc(status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == ServicesLimited })
		return
	}
	now := metav1.Now()
	setCondition(status, corev1.NodeCondition{
		Type: ServicesLimited, Status: corev1.ConditionTrue, Reason: "NoPrivilege", Message: message, LastHeartbeatTime: now, LastTransitionTime: now,
	})
}

func readiness(trouble error, now metav1.Time) corev1.NodeCondition {
	condition := corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "AgentReady", Message: "the agent is ready",
		LastHeartbeatTime: now, LastTransitionTime: now,
	}
	if trouble != nil {
		condition.Status, condition.Reason, condition.Message = corev1.ConditionFalse, "AgentNotReady", trouble.Error()
	}
	return condition
}

func isReady(status *corev1.NodeStatus) bool {
	return slices.ContainsFunc(status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// MaxGuests is the kubelet's default of pods on a node.
const MaxGuests = 110

// setCondition keeps the times of a condition that didn't change: a heartbeat is the
// Lease's business, and a Node that is written every ten seconds wakes every watcher.
func setCondition(status *corev1.NodeStatus, c corev1.NodeCondition) {
	for i := range status.Conditions {
		is := &status.Conditions[i]
		if is.Type != c.Type {
			continue
		}
		if is.Status == c.Status && is.Reason == c.Reason && is.Message == c.Message {
			return
		}
		if is.Status == c.Status {
			c.LastTransitionTime = is.LastTransitionTime
		}
		*is = c
		return
	}
	status.Conditions = append(status.Conditions, c)
}

func (r *Registration) renew(ctx context.Context) error {
	leases := r.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	lease, err := leases.Get(ctx, r.node.Name, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if missing {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: r.node.Name, Namespace: corev1.NamespaceNodeLease}}
	} else if err != nil {
		return fmt.Errorf("read the Lease of node %s: %w", r.node.Name, err)
	}
	seconds, now := int32(leaseDuration.Seconds()), metav1.NowMicro()
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &r.node.Name, &seconds, &now
	if missing {
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
	} else {
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("renew the Lease of node %s: %w", r.node.Name, err)
	}
	return nil
}

package bgp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	core "portico.dev/portico/internal/core/bgp"
	kinds "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/metallb"
)

// The labels by which MetalLB's users find the objects.
const (
	labelNode      = "metallb.io/node"
	labelName      = "metallb.io/service-name"
	labelNamespace = "metallb.io/service-namespace"
)

// statusRetry is the pause after a write that failed: the API is away, or has no such kind.
const statusRetry = 5 * time.Second

// Status keeps this node's ServiceBGPStatus objects: one for each Service that it announces.
type Status struct {
	node   string
	client dynamic.Interface
	log    *slog.Logger
	wake   chan struct{} // capacity 1

	// Run alone uses these.
	written map[string][]string // peers by the object's name; nil: left by an earlier run
	known   bool                // written has what earlier runs left
}

// NewStatus makes a Status for a node.
func NewStatus(node string, client dynamic.Interface, log *slog.Logger) *Status {
	return &Status{node: node, client: client, log: log, wake: make(chan struct{}, 1), written: map[string][]string{}}
}

// Changed says that the plan may be another one: Options.Changed.
func (s *Status) Changed() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run writes what plan gives until ctx ends.
func (s *Status) Run(ctx context.Context, plan func() *core.Plan) error {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-retry.C:
		}
		p := plan()
		if p == nil {
			continue
		}
		if err := s.sync(ctx, p.Peers()); err != nil && ctx.Err() == nil {
			s.log.Debug("What this node announces isn't told in ServiceBGPStatus objects; trying again", "err", err)
			retry.Reset(statusRetry)
		}
	}
}

// sync makes the API's objects those that are wanted.
func (s *Status) sync(ctx context.Context, peers map[types.NamespacedName][]string) error {
	if err := s.learn(ctx); err != nil {
		return err
	}
	wanted := make(map[string]*kinds.ServiceBGPStatus, len(peers))
	for service, names := range peers {
		o := newStatus(s.node, service, names)
		wanted[o.Name] = o
	}
	for _, name := range slices.Sorted(maps.Keys(s.written)) {
		if wanted[name] != nil {
			continue
		}
		if err := metallb.Delete(ctx, s.client, &kinds.ServiceBGPStatus{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			return err
		}
		delete(s.written, name)
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		o := wanted[name]
		if slices.Equal(s.written[name], o.Status.Peers) {
			continue
		}
		if err := metallb.Apply(ctx, s.client, o); err != nil {
			return err
		}
		s.written[name] = o.Status.Peers
	}
	return nil
}

// learn finds the objects of earlier runs, once.
func (s *Status) learn(ctx context.Context) error {
	if s.known {
		return nil
	}
	left, err := s.client.Resource(metallb.ServiceBGPStatuses).Namespace(kinds.Namespace).
		List(ctx, metav1.ListOptions{LabelSelector: labelNode + "=" + labelValue(s.node)})
	if err != nil {
		return fmt.Errorf("list ServiceBGPStatus objects: %w", err)
	}
	for i := range left.Items {
		s.written[left.Items[i].GetName()] = nil
	}
	s.known = true
	return nil
}

func newStatus(node string, service types.NamespacedName, peers []string) *kinds.ServiceBGPStatus {
	sum := sha256.Sum256([]byte(node + "/" + service.String()))
	return &kinds.ServiceBGPStatus{
		ObjectMeta: metav1.ObjectMeta{
			Name: "bgp-" + hex.EncodeToString(sum[:8]), Namespace: kinds.Namespace,
			Labels: map[string]string{labelNode: labelValue(node), labelName: service.Name, labelNamespace: service.Namespace},
		},
		Status: kinds.ServiceBGPStatusStatus{Node: node, ServiceName: service.Name, ServiceNamespace: service.Namespace, Peers: peers},
	}
}

// labelValue shortens a name that is too long for a label.
func labelValue(name string) string {
	const most = 63
	if len(name) <= most {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:8])
}

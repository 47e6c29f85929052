package l2

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/metallb"
)

// The labels by which MetalLB's users find the objects.
const (
	labelNode      = "metallb.io/node"
	labelName      = "metallb.io/service-name"
	labelNamespace = "metallb.io/service-namespace"
)

// Status keeps this node's ServiceL2Status objects: one for each Service that has an
// address here.
type Status struct {
	node   string
	client dynamic.Interface
	log    *slog.Logger
	news   chan map[string]*core.ServiceL2Status // capacity 1: the last is all that counts
}

// NewStatus makes a Status for a node; an Announcer runs it.
func NewStatus(node string, client dynamic.Interface, log *slog.Logger) *Status {
	return &Status{node: node, client: client, log: log, news: make(chan map[string]*core.ServiceL2Status, 1)}
}

// set takes all objects that there should be, by name.
func (s *Status) set(wanted map[string]*core.ServiceL2Status) {
	select {
	case <-s.news:
	default:
	}
	s.news <- wanted // only one goroutine calls set: there is room
}

// statusRetry is the pause after a write that failed: the API is away, or has no such kind.
const statusRetry = 5 * time.Second

// run writes until ctx ends.
func (s *Status) run(ctx context.Context) error {
	var wanted map[string]*core.ServiceL2Status
	written := map[string]*core.ServiceL2Status{}
	known := false // written has what earlier runs left
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.last(ctx, written, &known)
		case wanted = <-s.news:
		case <-retry.C:
		}
		if wanted == nil {
			continue
		}
		err := s.sync(ctx, wanted, written, &known)
		if err != nil && ctx.Err() == nil {
			s.log.Debug("What this node announces isn't told in ServiceL2Status objects; trying again", "error", err)
			retry.Reset(statusRetry)
		}
	}
}

// lastWrite bounds what a stopping agent writes: the API may have gone before it.
const lastWrite = time.Second

// last writes what a stopping agent handed over.
func (s *Status) last(ctx context.Context, written map[string]*core.ServiceL2Status, known *bool) error {
	select {
	case wanted := <-s.news:
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrite)
		defer cancel()
		if err := s.sync(ctx, wanted, written, known); err != nil {
			s.log.Debug("What this node no longer announces is still told in ServiceL2Status objects", "error", err)
		}
	default:
	}
	return nil
}

// sync makes the API's objects those that are wanted. It gives up when there is newer to write.
func (s *Status) sync(ctx context.Context, wanted, written map[string]*core.ServiceL2Status, known *bool) error {
	if !*known {
		left, err := s.client.Resource(metallb.ServiceL2Statuses).Namespace(core.Namespace).
			List(ctx, metav1.ListOptions{LabelSelector: labelNode + "=" + labelValue(s.node)})
		if err != nil {
			if apierrors.IsNotFound(err) {
				return errors.New("the API has no ServiceL2Status")
			}
			return fmt.Errorf("list ServiceL2Status objects: %w", err)
		}
		for i := range left.Items {
			written[left.Items[i].GetName()] = nil
		}
		*known = true
	}
	for _, name := range slices.Sorted(maps.Keys(written)) {
		if wanted[name] != nil {
			continue
		}
		gone := &core.ServiceL2Status{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := metallb.Delete(ctx, s.client, gone); err != nil {
			return err
		}
		delete(written, name)
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		w := wanted[name]
		if is := written[name]; is != nil && slices.Equal(is.Status.Interfaces, w.Status.Interfaces) {
			continue
		}
		if len(s.news) > 0 {
			return nil
		}
		if err := metallb.Apply(ctx, s.client, w); err != nil {
			return err
		}
		written[name] = w
	}
	return nil
}

// statuses describes what is held. mu is held.
func (a *Announcer) statuses() map[string]*core.ServiceL2Status {
	out := map[string]*core.ServiceL2Status{}
	for i := range a.contests {
		h := a.mine[a.contests[i].Address]
		if h == nil {
			continue
		}
		for _, service := range a.contests[i].Services {
			s := newStatus(a.config.Self, service.Name)
			if before := out[s.Name]; before != nil {
				s = before
			}
			for _, l := range h.links {
				if info := (core.InterfaceInfo{Name: l}); !slices.Contains(s.Status.Interfaces, info) {
					s.Status.Interfaces = append(s.Status.Interfaces, info)
				}
			}
			out[s.Name] = s
		}
	}
	return out
}

func newStatus(node string, service types.NamespacedName) *core.ServiceL2Status {
	sum := sha256.Sum256([]byte(node + "/" + service.String()))
	return &core.ServiceL2Status{
		ObjectMeta: metav1.ObjectMeta{
			Name: "l2-" + hex.EncodeToString(sum[:8]), Namespace: core.Namespace,
			Labels: map[string]string{labelNode: labelValue(node), labelName: service.Name, labelNamespace: service.Namespace},
		},
		Status: core.ServiceL2StatusStatus{Node: node, ServiceName: service.Name, ServiceNamespace: service.Namespace},
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

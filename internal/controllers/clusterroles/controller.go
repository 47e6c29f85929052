// Package clusterroles fills the ClusterRoles that collect others by label
// (aggregationRule), such as admin, edit and view.
//
// In: ClusterRoles, by watch. Out: the rules of the collecting ones. What these are is
// core/rbac's decision.
package clusterroles

import (
	"context"
	"fmt"
	"log/slog"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/work"
	"portico.dev/portico/internal/core/rbac"
)

// workers is one: a cluster has a handful of collecting roles, and some collect others.
const workers = 1

// Deps is what Run needs.
type Deps struct {
	Client kubernetes.Interface
	Caches *caches.Shared // of the term; nil: its own
	Log    *slog.Logger
	Clock  clock.WithTicker // nil: the real one
}

type controller struct {
	Deps
	queue *work.Queue[string]
	roles cache.Indexer
}

// Run works until ctx ends.
func Run(ctx context.Context, d Deps) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	informer := view.Rbac().V1().ClusterRoles().Informer()
	c := &controller{Deps: d, queue: work.New[string]("clusterroles", d.Log, d.Clock), roles: informer.GetIndexer()}
	// Any role's change may be another's: labels come and go.
	changed := func(any) {
		for _, r := range c.all() {
			if r.AggregationRule != nil {
				c.queue.Add(r.Name)
			}
		}
	}
	view.OnAny(informer, changed)
	if ok, err := view.Ready(); !ok {
		return err
	}
	c.queue.Run(ctx, workers, c.sync)
	return nil
}

func (c *controller) all() []*rbacv1.ClusterRole {
	var out []*rbacv1.ClusterRole
	for _, obj := range c.roles.List() {
		out = append(out, obj.(*rbacv1.ClusterRole))
	}
	return out
}

func (c *controller) sync(ctx context.Context, name string) error {
	obj, exists, err := c.roles.GetByKey(name)
	if err != nil || !exists {
		return err
	}
	role := obj.(*rbacv1.ClusterRole)
	rules := rbac.Aggregate(role, c.all())
	if role.AggregationRule == nil || equality.Semantic.DeepEqual(rules, role.Rules) {
		return nil
	}
	next := role.DeepCopy()
	next.Rules = rules
	if _, err := c.Client.RbacV1().ClusterRoles().Update(ctx, next, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("fill ClusterRole %s: %w", name, err)
	}
	c.Log.Debug("filled a collecting ClusterRole", "name", name, "rules", len(rules))
	return nil
}

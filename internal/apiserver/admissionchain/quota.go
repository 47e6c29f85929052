package admissionchain

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	"k8s.io/utils/keymutex"

	"portico.dev/portico/internal/core/quota"
)

const (
	// quotaWorkers are how many namespaces are charged at once, as upstream.
	quotaWorkers = 5
	// quotaTries bound how often a charge is tried against other writers of the same
	// status: each try of the library's is four compare-and-swaps.
	quotaTries = 5
	// quotaTurns is how many locks the namespaces share.
	quotaTurns = 64
)

// Quota charges what a request adds to the quotas of its namespace, in their status,
// before the object is stored; and refuses what would exceed one. The charge is a write
// with the version that was read, so any number of servers may charge at once.
type Quota struct {
	*admission.Handler
	synced    func() bool
	account   *account
	evaluator resourcequota.Evaluator
	turns     keymutex.KeyMutex // by namespace
	clock     clock.PassiveClock
}

var _ admission.ValidationInterface = (*Quota)(nil)

// NewQuota makes the plugin; its workers end with ctx.
func NewQuota(ctx context.Context, kube clientset.Interface, factory informers.SharedInformerFactory) *Quota {
	informer := factory.Core().V1().ResourceQuotas()
	account := newAccount(kube.CoreV1(), informer.Lister())
	// An informer takes handlers until it has ended, and then no more is charged.
	_, _ = informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: account.forget})
	// Whatever else is created is counted by an evaluator that the library adds.
	registry := generic.NewRegistry([]quotav1.Evaluator{serviceEvaluator{}})
	for _, name := range []corev1.ResourceName{
		corev1.ResourcePods, corev1.ResourceConfigMaps, corev1.ResourceSecrets, corev1.ResourceReplicationControllers,
		corev1.ResourcePersistentVolumeClaims, corev1.ResourceQuotas,
	} {
		gr, _ := quota.Counted(name)
		registry.Add(generic.NewObjectCountEvaluator(gr, nil, name))
	}
	return &Quota{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		synced:  informer.Informer().HasSynced, account: account, clock: clock.RealClock{}, turns: keymutex.NewHashed(quotaTurns),
		evaluator: resourcequota.NewQuotaEvaluator(account, nil, registry, nil, nil, quotaWorkers, ctx.Done()),
	}
}

// Validate charges the request. Where the namespace has no quota, it costs one look
// into a map.
func (q *Quota) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	namespace := a.GetNamespace()
	if namespace == "" || a.GetSubresource() != "" || a.GetKind().GroupKind() == (schema.GroupKind{Kind: "Namespace"}) || quota.Exempt(a.GetResource().GroupResource()) {
		return nil
	}
	receipt := receiptOf(ctx)
	receipt.again()
	if !q.synced() && !waitUntil(ctx, q.synced) {
		return admission.NewForbidden(a, fmt.Errorf("not yet ready to handle request"))
	}
	before, err := q.account.GetQuotas(namespace)
	if err != nil || len(before) == 0 {
		return err
	}
	began := q.clock.Now()
	err = q.evaluate(ctx, a)
	if err == nil && receipt != nil && !a.IsDryRun() {
		after, err := q.account.GetQuotas(namespace)
		if err != nil {
			return err
		}
		receipt.note(charge{account: q.account, clock: q.clock, at: began, namespace: namespace, amounts: charged(a, before, after)})
	}
	return err
}

// evaluate charges one request of a namespace at a time. The library would charge several
// in one write; but when that meets a conflict it measures all of them again, also those
// that it has refused already: with room by then, they are charged and refused all the
// same, and nobody gives their places back.
func (q *Quota) evaluate(ctx context.Context, a admission.Attributes) (err error) {
	q.turns.LockKey(a.GetNamespace())
	defer func() { _ = q.turns.UnlockKey(a.GetNamespace()) }() // its error is for locks unknown
	for range quotaTries {
		err = q.evaluator.Evaluate(a)
		if !apierrors.IsConflict(err) || ctx.Err() != nil {
			break
		}
	}
	return err
}

// serviceEvaluator measures Services, whose use changes with their type.
type serviceEvaluator struct{}

var servicesResource = schema.GroupResource{Resource: "services"}

func (serviceEvaluator) Constraints([]corev1.ResourceName, runtime.Object) error { return nil }
func (serviceEvaluator) GroupResource() schema.GroupResource                     { return servicesResource }

func (serviceEvaluator) Handles(a admission.Attributes) bool {
	return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update)
}

func (e serviceEvaluator) Matches(q *corev1.ResourceQuota, item runtime.Object) (bool, error) {
	return generic.Matches(q, item, e.MatchingResources, generic.MatchesNoScopeFunc)
}

func (serviceEvaluator) MatchingScopes(runtime.Object, []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	return nil, nil
}

func (serviceEvaluator) UncoveredQuotaScopes(_, _ []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	return nil, nil
}

func (serviceEvaluator) MatchingResources(input []corev1.ResourceName) []corev1.ResourceName {
	return quotav1.Intersection(input, quota.Names(servicesResource))
}

func (serviceEvaluator) Usage(item runtime.Object) (corev1.ResourceList, error) {
	s, ok := item.(*corev1.Service)
	if !ok {
		return nil, fmt.Errorf("measure a Service: got a %T", item)
	}
	return quota.OfService(s).List(), nil
}

// UsageStats isn't asked of an evaluator of admission's.
func (serviceEvaluator) UsageStats(quotav1.UsageStatsOptions) (quotav1.UsageStats, error) {
	return quotav1.UsageStats{}, fmt.Errorf("count Services: admission doesn't, the quota controller does")
}

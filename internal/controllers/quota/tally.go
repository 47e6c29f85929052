package quota

import (
	"maps"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/core/quota"
)

// ledger counts what is used, per namespace and resource, from the events of watches
// alone; and remembers what each quota has to be refunded.
type ledger struct {
	mu sync.Mutex
	// there is what the objects of each namespace use, by their resource.
	there map[schema.GroupResource]map[string]quota.Amounts
	// refunds are what was seen to go since a quota's status was written.
	refunds map[types.UID]*refund
}

type refund struct {
	namespace string
	amounts   quota.Amounts
}

func newLedger() *ledger {
	return &ledger{there: map[schema.GroupResource]map[string]quota.Amounts{}, refunds: map[types.UID]*refund{}}
}

// change notes that an object used before and uses after; either may be nil.
func (l *ledger) change(gr schema.GroupResource, namespace string, before, after quota.Amounts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	spaces := l.there[gr]
	if spaces == nil {
		spaces = map[string]quota.Amounts{}
		l.there[gr] = spaces
	}
	if spaces[namespace] == nil {
		spaces[namespace] = quota.Amounts{}
	}
	used := spaces[namespace]
	less := quota.Amounts{}
	for name, n := range before {
		less[name] += n
	}
	for name, n := range after {
		less[name] -= n
	}
	for name, n := range less {
		if used[name] -= n; used[name] == 0 {
			delete(used, name)
		}
		if n > 0 {
			l.owe(namespace, quota.Amounts{name: n})
		}
	}
	if len(used) == 0 {
		delete(spaces, namespace)
	}
}

func (l *ledger) owe(namespace string, amounts quota.Amounts) {
	for _, r := range l.refunds {
		if r.namespace != namespace {
			continue
		}
		for name, n := range amounts {
			r.amounts[name] += n
		}
	}
}

// open says what is there now and what the quota is owed; from now on it is owed
// whatever goes.
func (l *ledger) open(uid types.UID, namespace string) (there, owed quota.Amounts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refunds[uid] == nil {
		l.refunds[uid] = &refund{namespace, quota.Amounts{}}
	}
	there = quota.Amounts{}
	for _, spaces := range l.there {
		maps.Copy(there, spaces[namespace])
	}
	return there, maps.Clone(l.refunds[uid].amounts)
}

// paid notes that amounts of what was owed are in the status now.
func (l *ledger) paid(uid types.UID, amounts quota.Amounts) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.refunds[uid]
	if r == nil {
		return
	}
	for name, n := range amounts {
		if r.amounts[name] -= n; r.amounts[name] == 0 {
			delete(r.amounts, name)
		}
	}
}

func (l *ledger) close(uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.refunds, uid)
}

// handler counts the objects of one resource and tells of namespaces that changed.
func (l *ledger) handler(gr schema.GroupResource, changed func(namespace string)) cache.ResourceEventHandler {
	note := func(before, after any) {
		var was, is quota.Amounts
		obj := after
		if before != nil {
			was, obj = quota.Of(gr, before), before
		}
		if after != nil {
			is = quota.Of(gr, after)
		}
		m, err := meta.Accessor(obj)
		if err != nil || maps.Equal(was, is) {
			return
		}
		l.change(gr, m.GetNamespace(), was, is)
		changed(m.GetNamespace())
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { note(nil, obj) },
		UpdateFunc: func(old, obj any) { note(old, obj) },
		DeleteFunc: func(obj any) {
			if unseen, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unseen.Obj
			}
			note(obj, nil)
		},
	}
}

package endpoints

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// triggers remembers for each Service the first change that its slices don't
// show yet (EP-07). It is the time at which the change reached us: the times in
// the objects have whole seconds only, too coarse for what takes milliseconds.
type triggers struct {
	mu    sync.Mutex
	since map[types.NamespacedName]time.Time // guarded by mu
}

func (t *triggers) note(service types.NamespacedName, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.since == nil {
		t.since = map[types.NamespacedName]time.Time{}
	}
	if old, ok := t.since[service]; !ok || at.Before(old) {
		t.since[service] = at
	}
}

// take gives the time, or zero, and forgets it; who then fails notes it again.
func (t *triggers) take(service types.NamespacedName) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.since[service]
	delete(t.since, service)
	return at
}

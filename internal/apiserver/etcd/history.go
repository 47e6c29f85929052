package etcd

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
)

// historyEvents is how many events of a kind its watch cache keeps, for watches that begin
// at an earlier version. The library keeps all of the last 75 s, at most 102,400, with the
// objects as they were before: after a burst of writes that is as much memory as the
// objects themselves, until others come. Whoever is further behind lists anew (410 Gone),
// as after a burst of more than that. It is some seconds of all that this server can write,
// and a number to which the library's first size, 100, can double.
const historyEvents = 3200

// pacedEvents lets a watch cache believe that events which come faster than its history may
// hold come a little later: it keeps fewer than historyEvents only if they are older than
// window, by the times that the store's events carry. These serve nothing else but
// the library's figures on the delay of watches, which show too little in a burst.
type pacedEvents struct {
	watch.Interface
	result  chan watch.Event
	stop    sync.Once
	stopped chan struct{}
}

// paceEvents takes over the watch. It ends with it, or by Stop.
func paceEvents(from watch.Interface, window time.Duration) watch.Interface {
	p := &pacedEvents{Interface: from, result: make(chan watch.Event), stopped: make(chan struct{})}
	go p.run(window / historyEvents)
	return p
}

// Stop implements watch.Interface.
func (p *pacedEvents) Stop() {
	p.stop.Do(func() { close(p.stopped) })
	p.Interface.Stop()
}

// ResultChan implements watch.Interface.
func (p *pacedEvents) ResultChan() <-chan watch.Event { return p.result }

func (p *pacedEvents) run(apart time.Duration) {
	defer close(p.result)
	var last time.Time
	for event := range p.Interface.ResultChan() {
		if timed, ok := event.Object.(storage.WatchEventWithRecordTime); ok {
			last = later(timed.RecordTime(), last.Add(apart))
			event.Object = timedEvent{timed.Unwrap(), last}
		}
		select {
		case p.result <- event:
		case <-p.stopped:
			return
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// timedEvent is an object on its way from the store into a watch cache.
type timedEvent struct {
	runtime.Object
	at time.Time
}

var _ storage.WatchEventWithRecordTime = timedEvent{}

// RecordTime implements storage.WatchEventWithRecordTime.
func (e timedEvent) RecordTime() time.Time { return e.at }

// Unwrap implements storage.WatchEventWithRecordTime.
func (e timedEvent) Unwrap() runtime.Object { return e.Object }

// GetObjectMeta implements metav1.ObjectMetaAccessor, by which reflectors read versions.
func (e timedEvent) GetObjectMeta() metav1.Object {
	m, _ := meta.Accessor(e.Object) // nil, which the reflector refuses, where it has none
	return m
}

// DeepCopyObject implements runtime.Object.
func (e timedEvent) DeepCopyObject() runtime.Object {
	return timedEvent{e.Object.DeepCopyObject(), e.at}
}

package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/kubernetes/scheme"
)

// paced gives the times that events of the given ones have after paceEvents.
func paced(t *testing.T, window time.Duration, at ...time.Time) []time.Time {
	t.Helper()
	from := watch.NewFakeWithChanSize(len(at), false)
	for i, when := range at {
		from.Add(timedEvent{&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i)}}, when})
	}
	w := paceEvents(from, window)
	defer w.Stop()
	var out []time.Time
	for i := range at {
		event := (<-w.ResultChan()).Object.(storage.WatchEventWithRecordTime)
		if name := event.Unwrap().(*corev1.ConfigMap).Name; name != fmt.Sprint(i) {
			t.Errorf("event %d is of %s", i, name)
		}
		out = append(out, event.RecordTime())
	}
	return out
}

func TestEventsArePaced(t *testing.T) {
	const window = 75 * time.Second
	begin := time.Unix(1000, 0)
	burst := make([]time.Time, historyEvents+1)
	for i := range burst {
		burst[i] = begin.Add(time.Duration(i) * time.Microsecond)
	}
	got := paced(t, window, burst...)
	if d := got[historyEvents].Sub(got[0]); d < window {
		t.Errorf("a history full of a burst seems to be of %v, so the watch cache makes it larger", d)
	}
	slow := []time.Time{begin, begin.Add(time.Second), begin.Add(time.Minute)}
	for i, at := range paced(t, window, slow...) {
		if !at.Equal(slow[i]) {
			t.Errorf("event %d is told to be of %v, not %v", i, at, slow[i])
		}
	}
}

// The events that leave a watch cache's history are those that are too many: who is not
// that far behind goes on watching, the others are told to list anew. (API-09)
func TestHistoryIsBounded(t *testing.T) {
	e, err := StartEmbedded(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	store, codec := configMaps(t, &Options{Source: e})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	// Many times the bound, or the cache's last doubling would hide that there is none.
	first, last := write(t, e, codec, 4*historyEvents)
	follows := func() error {
		return store.Get(ctx, "/configmaps/default/cm-0", storage.GetOptions{ResourceVersion: fmt.Sprint(last)}, &corev1.ConfigMap{})
	}
	for err := follows(); err != nil; err = follows() {
		if !storage.IsTooLargeResourceVersion(err) { // it waits a while for the version
			t.Fatal("the watch cache doesn't follow:", err)
		}
	}
	since := func(revision int64) error {
		w, err := store.Watch(ctx, "/configmaps", storage.ListOptions{ResourceVersion: fmt.Sprint(revision), Predicate: storage.Everything, Recursive: true})
		if err != nil {
			return err
		}
		defer w.Stop()
		event := <-w.ResultChan()
		if event.Type == watch.Error {
			return apierrors.FromObject(event.Object)
		}
		return nil
	}
	if err := since(first); !apierrors.IsResourceExpired(err) {
		t.Errorf("a watch from before the burst: %v, want expired", err)
	}
	if err := since(last - 20); err != nil { // of 100 events each
		t.Errorf("a watch from 2,000 events ago: %v", err)
	}
}

// configMaps makes the storage of ConfigMaps until the test's end.
func configMaps(t *testing.T, o *Options) (storage.Interface, runtime.Codec) {
	t.Helper()
	codec := scheme.Codecs.CodecForVersions(scheme.Codecs.LegacyCodec(corev1.SchemeGroupVersion), scheme.Codecs.UniversalDeserializer(),
		corev1.SchemeGroupVersion, corev1.SchemeGroupVersion)
	o.Codec = func(schema.GroupResource) runtime.Codec { return codec }
	options, err := o.GetRESTOptions(schema.GroupResource{Resource: "configmaps"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	store, destroy, err := options.Decorator(options.StorageConfig, "/configmaps",
		func(obj runtime.Object) (string, error) {
			return "/configmaps/default/" + obj.(*corev1.ConfigMap).Name, nil
		},
		func() runtime.Object { return &corev1.ConfigMap{} }, func() runtime.Object { return &corev1.ConfigMapList{} },
		func(obj runtime.Object) (labels.Set, fields.Set, error) { return nil, fields.Set{}, nil }, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(destroy)
	return store, codec
}

// write puts n ConfigMaps, 100 in each transaction, and returns the first and last
// transaction's revision.
func write(t *testing.T, e *Embedded, codec runtime.Codec, n int) (first, last int64) {
	t.Helper()
	client, err := e.Client()
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < n; {
		var ops []clientv3.Op
		for ; len(ops) < 100; i++ {
			name := fmt.Sprint("cm-", i)
			raw, err := runtime.Encode(codec, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)}})
			if err != nil {
				t.Fatal(err)
			}
			ops = append(ops, clientv3.OpPut(strings.Join([]string{Prefix, "configmaps", "default", name}, "/"), string(raw)))
		}
		done, err := client.Txn(t.Context()).Then(ops...).Commit()
		if err != nil {
			t.Fatal(err)
		}
		if last = done.Header.Revision; first == 0 {
			first = last
		}
	}
	return first, last
}

// Every object is handed out once, and the newest are still there when many have come.
func TestRecentObjectsAreTheCachesOwn(t *testing.T) {
	r := &recent{}
	attrs := r.noting(func(runtime.Object) (labels.Set, fields.Set, error) { return nil, nil, nil })
	at := func(n int) version { return version{types.UID(fmt.Sprint("uid-", n)), "7"} }
	made := make([]*corev1.Service, 5*recentKept)
	for n := range made {
		made[n] = &corev1.Service{ObjectMeta: metav1.ObjectMeta{UID: at(n).uid, ResourceVersion: "7"}}
		if _, _, err := attrs(made[n]); err != nil {
			t.Fatal(err)
		}
	}
	newest := len(made) - recentKept
	if got := r.take(at(newest)); got != made[newest] {
		t.Errorf("got %v, want the object itself", got)
	}
	if got := r.take(at(newest)); got != nil {
		t.Errorf("it was handed out twice: %v", got)
	}
	if got := r.take(version{at(len(made) - 1).uid, "6"}); got != nil {
		t.Errorf("another version: %v", got)
	}
	if got := r.take(at(0)); got != nil {
		t.Errorf("the first of many is still kept")
	}
}

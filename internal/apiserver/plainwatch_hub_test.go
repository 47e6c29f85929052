package apiserver

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metainternalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"

	"portico.dev/portico/internal/apiserver/kinds"
)

// fakeKind is a hub whose source the test is.
type fakeKind struct {
	*watchHub
	encoder *eventEncoder
	opened  []*watch.FakeWatcher
	mu      sync.Mutex // guards dropped
	dropped int
}

func newFakeKind(t *testing.T) *fakeKind {
	t.Helper()
	k := &fakeKind{}
	codecs := serializer.NewCodecFactory(kinds.NewScheme())
	k.watchHub = &watchHub{gv: corev1.SchemeGroupVersion, serializers: codecs, empty: func() runtime.Object { return &corev1.Service{} }, readers: &sync.WaitGroup{}, dropped: func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.dropped++
	}, open: func(after uint64) (watch.Interface, error) {
		if after == 1 {
			return nil, errors.New("too old")
		}
		source := watch.NewFake()
		k.opened = append(k.opened, source)
		return source, nil
	}}
	info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeJSON)
	if !ok {
		t.Fatal("no JSON")
	}
	k.encoder = k.watchHub.encoder(info)
	return k
}

func (k *fakeKind) watch(t *testing.T, after uint64, conn *bundledConn) *plainWatch {
	t.Helper()
	w := newPlainWatch(watchScope{namespace: "default"}, watchQuery{after: after}, conn, k.encoder)
	if !k.join(w) {
		t.Fatalf("no watch from version %d on", after)
	}
	return w
}

// change sends a change, and returns once the hub has taken it.
func (k *fakeKind) change(version int) {
	k.opened[len(k.opened)-1].Modify(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", ResourceVersion: strconv.Itoa(version)}})
}

// seen reads until a watch has n events or has ended.
func seen(t *testing.T, w *plainWatch, n int) (versions []string, ended bool) {
	t.Helper()
	for len(versions) < n && !ended {
		select {
		case <-w.wake:
		case <-time.After(30 * time.Second):
			t.Fatalf("%d of %d events", len(versions), n)
		}
		var events [][]byte
		events, _, ended = w.take()
		for _, e := range events {
			_, rest, _ := bytes.Cut(e, []byte(`"resourceVersion":"`))
			version, _, _ := bytes.Cut(rest, []byte(`"`))
			versions = append(versions, string(version))
		}
	}
	return versions, ended
}

// A watch whose client doesn't read is given up after as much as is allowed; the others
// miss nothing.
func TestSlowPlainWatchIsGivenUp(t *testing.T) {
	k := newFakeKind(t)
	slow, fast := k.watch(t, 10, nil), k.watch(t, 10, nil)
	const changes = mostWaitingEvents + 10
	for n := range changes {
		k.change(11 + n)
		if got, ended := seen(t, fast, 1); ended || got[0] != fmt.Sprint(11+n) {
			t.Fatalf("got %s after change %d, ended %v", got, n, ended)
		}
	}
	got, ended := seen(t, slow, changes)
	if !ended || len(got) != mostWaitingEvents || got[0] != "11" {
		t.Errorf("the slow one has %d events, ended: %v", len(got), ended)
	}
	k.mu.Lock()
	if k.dropped != 1 {
		t.Errorf("%d are counted as given up", k.dropped)
	}
	k.mu.Unlock()
	k.leave(slow)
	if k.opened[0].IsStopped() {
		t.Error("the source ended with a watch that wasn't the last")
	}
	k.leave(fast)
	if !k.opened[0].IsStopped() {
		t.Error("nobody watches, and the source does")
	}
	k.readers.Wait()
}

// Watches begin where others have passed, as far as the hub remembers; the rest is not
// for it.
func TestPlainWatchBeginsWhereTheHubRemembers(t *testing.T) {
	k := newFakeKind(t)
	if k.join(newPlainWatch(watchScope{}, watchQuery{after: 1}, nil, k.encoder)) {
		t.Error("a watch from a version that the source has lost")
	}
	first := k.watch(t, 10, nil)
	if k.join(newPlainWatch(watchScope{}, watchQuery{after: 9}, nil, k.encoder)) {
		t.Error("a watch from before the source's begin")
	}
	for n := range recentEvents + 2 {
		k.change(11 + n)
	}
	if got, _ := seen(t, first, recentEvents+2); len(got) != recentEvents+2 {
		t.Errorf("%d events", len(got))
	}
	if k.join(newPlainWatch(watchScope{}, watchQuery{after: 11}, nil, k.encoder)) {
		t.Error("a watch whose first event is forgotten")
	}
	late := k.watch(t, 12, nil)
	if got, _ := seen(t, late, recentEvents); len(got) != recentEvents || got[0] != "13" {
		t.Errorf("%d events from %s on", len(got), got[0])
	}
	k.opened[0].Stop() // the watch cache begins anew
	for _, w := range []*plainWatch{first, late} {
		if got, ended := seen(t, w, 1); !ended {
			t.Errorf("got %s, want the end", got)
		}
	}
	again := k.watch(t, 200, nil)
	for _, w := range []*plainWatch{first, late, again} {
		k.leave(w)
	}
	if len(k.opened) != 2 || !k.opened[1].IsStopped() {
		t.Errorf("%d sources, the last is stopped: %v", len(k.opened), k.opened[1].IsStopped())
	}
	k.readers.Wait()
}

// Watches that leave before they wrote don't keep their connection waiting.
func TestLeavingPlainWatchIsNotWaitedFor(t *testing.T) {
	k := newFakeKind(t)
	c, _ := pipeConn(t, 2)
	c.late = time.AfterFunc(time.Hour, c.writeLate) // else a slow machine ends the party itself
	t.Cleanup(func() { c.late.Stop() })
	var all []*plainWatch
	for range 3 {
		all = append(all, k.watch(t, 10, c))
	}
	k.change(11)
	for _, w := range all {
		<-w.wake
	}
	if got := expectedBy(c); got != 3 {
		t.Errorf("%d are expected", got)
	}
	for _, w := range all {
		k.leave(w)
	}
	if got := expectedBy(c); got != 0 {
		t.Errorf("%d are still expected", got)
	}
	k.readers.Wait()
}

func expectedBy(c *bundledConn) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.expected
}

// What is taken as plain means the same to the library.
func FuzzPlainWatchQuery(f *testing.F) {
	for _, seed := range []string{
		"watch=1&resourceVersion=5", "watch=true&resourceVersion=5&allowWatchBookmarks=true&timeoutSeconds=7&fieldSelector=metadata.name%3Dweb&labelSelector=",
		"resourceVersion=5", "watch=1&resourceVersion=0", "watch=1&resourceVersion=%2B5", "watch=1&resourceVersion=5&fieldSelector=metadata.name%3Da%2Cmetadata.namespace%3Db",
		"watch=1&resourceVersion=5&timeoutSeconds=-1", "watch=1&watch=0&resourceVersion=5", "watch=1&resourceVersion=5&sendInitialEvents=true", "watch=1;resourceVersion=5",
		"watch=1&resourceVersion=5&fieldSelector=metadata.name%3D%3Dx", "watch=0&resourceVersion=5", "watch=1&resourceVersion=5&limit=3",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, plain := parsePlainWatch(raw)
		if !plain {
			return
		}
		values := (&url.URL{RawQuery: raw}).Query()
		var opts metainternalversion.ListOptions
		if err := metainternalversionscheme.ParameterCodec.DecodeParameters(values, metav1.SchemeGroupVersion, &opts); err != nil {
			t.Fatalf("%q is refused: %v", raw, err)
		}
		version, err := strconv.ParseUint(opts.ResourceVersion, 10, 64)
		if err != nil || version != q.after || !opts.Watch || opts.AllowWatchBookmarks != q.bookmarks || opts.SendInitialEvents != nil || opts.Limit != 0 || opts.Continue != "" || opts.ResourceVersionMatch != "" {
			t.Errorf("%q: %+v, the library has %+v", raw, q, opts)
		}
		seconds := int64(0)
		if opts.TimeoutSeconds != nil {
			seconds = *opts.TimeoutSeconds
		}
		if time.Duration(seconds)*time.Second != q.timeout {
			t.Errorf("%q: %v, the library has %d s", raw, q.timeout, seconds)
		}
		if opts.LabelSelector != nil && !opts.LabelSelector.Empty() {
			t.Errorf("%q: labels %v", raw, opts.LabelSelector)
		}
		name := ""
		if opts.FieldSelector != nil && !opts.FieldSelector.Empty() {
			requirements := opts.FieldSelector.Requirements()
			if len(requirements) != 1 || requirements[0].Field != "metadata.name" || requirements[0].Operator != "=" {
				t.Fatalf("%q: fields %v", raw, opts.FieldSelector)
			}
			name = requirements[0].Value
		}
		if name != q.name {
			t.Errorf("%q: name %q, the library has %q", raw, q.name, name)
		}
	})
}

// An encoder that fails ends its watches.
func TestPlainWatchEndsWhereItCannotBeEncoded(t *testing.T) {
	k := newFakeKind(t)
	w := k.watch(t, 10, nil)
	k.opened[0].Modify(&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "default", ResourceVersion: "11"}})
	if got, ended := seen(t, w, 1); !ended {
		t.Errorf("got %s, want the end", got)
	}
	k.leave(w)
	k.readers.Wait()
}

// Requests that ask for another protocol or another form aren't plain.
func TestPlainAccept(t *testing.T) {
	for header, want := range map[*http.Header]bool{
		{}: true, {"Accept": {"application/json"}}: true, {"Accept": {"a,b"}}: true, {"Accept": {"a", "b"}}: false,
		{"Accept": {"application/json;as=Table"}}: false, {"Upgrade": {"websocket"}}: false,
	} {
		if got := plainAccept(*header); got != want {
			t.Errorf("%v: %v", *header, got)
		}
	}
}

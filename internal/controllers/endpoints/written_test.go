package endpoints

import (
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	testingclock "k8s.io/utils/clock/testing"
)

func version(name, uid, rv string) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(uid), ResourceVersion: rv}}
}

// What a sync sees: the cache, brought up to our own writes.
func TestWrittenNewest(t *testing.T) {
	svc := types.NamespacedName{Namespace: "ns", Name: "web"}
	type list = []*discoveryv1.EndpointSlice
	for _, c := range []struct {
		name  string
		write func(*written[*discoveryv1.EndpointSlice])
		cache list
		want  string
	}{
		{"nothing written", func(*written[*discoveryv1.EndpointSlice]) {}, list{version("a", "1", "5")}, "a@5"},
		{"created, not cached", func(w *written[*discoveryv1.EndpointSlice]) { w.put(svc, version("a", "1", "5")) }, nil, "a@5"},
		{"updated, cache behind", func(w *written[*discoveryv1.EndpointSlice]) { w.put(svc, version("a", "1", "10")) }, list{version("a", "1", "9")}, "a@10"},
		{"updated, cache ahead", func(w *written[*discoveryv1.EndpointSlice]) { w.put(svc, version("a", "1", "9")) }, list{version("a", "1", "10")}, "a@10"},
		{"deleted, still cached", func(w *written[*discoveryv1.EndpointSlice]) { w.gone(svc, version("a", "1", "9")) }, list{version("a", "1", "9"), version("b", "2", "3")}, "b@3"},
		{"deleted, name used again", func(w *written[*discoveryv1.EndpointSlice]) { w.gone(svc, version("a", "1", "9")) }, list{version("a", "2", "10")}, "a@10"},
		{"contradicted", func(w *written[*discoveryv1.EndpointSlice]) {
			w.put(svc, version("a", "1", "10"))
			w.forget(svc, "a")
		}, list{version("a", "1", "9")}, "a@9"},
		{"another Service's", func(w *written[*discoveryv1.EndpointSlice]) {
			w.put(types.NamespacedName{Namespace: "ns", Name: "other"}, version("a", "1", "10"))
		}, nil, ""},
		{"deleted by somebody before the write returned", func(w *written[*discoveryv1.EndpointSlice]) {
			defer w.begin(svc)()
			w.seen(svc, version("a", "1", "10"), false)
			w.seen(svc, version("a", "1", "11"), true)
			w.put(svc, version("a", "1", "10"))
		}, nil, ""},
		{"changed by somebody before the write returned", func(w *written[*discoveryv1.EndpointSlice]) {
			defer w.begin(svc)()
			w.seen(svc, version("a", "1", "11"), false)
			w.put(svc, version("a", "1", "10"))
		}, list{version("a", "1", "11")}, "a@11"},
		{"an earlier event while it is written", func(w *written[*discoveryv1.EndpointSlice]) {
			defer w.begin(svc)()
			w.seen(svc, version("a", "1", "9"), false)
			w.put(svc, version("a", "1", "10"))
		}, list{version("a", "1", "9")}, "a@10"},
		{"an earlier one's end while it is written", func(w *written[*discoveryv1.EndpointSlice]) {
			defer w.begin(svc)()
			w.seen(svc, version("a", "1", "9"), true)
			w.put(svc, version("a", "2", "10"))
		}, nil, "a@10"},
		{"seen since", func(w *written[*discoveryv1.EndpointSlice]) {
			w.put(svc, version("a", "1", "10"))
			w.seen(svc, version("a", "1", "10"), false)
			w.seen(svc, version("a", "1", "11"), true)
		}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWritten[*discoveryv1.EndpointSlice](testingclock.NewFakePassiveClock(time.Now()))
			c.write(w)
			var got []string
			for _, s := range w.newest(svc, c.cache) {
				got = append(got, s.Name+"@"+s.ResourceVersion)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Echoes of our own writes aren't news, anything else is.
func TestWrittenSeen(t *testing.T) {
	svc := types.NamespacedName{Namespace: "ns", Name: "web"}
	for _, c := range []struct {
		name    string
		event   *discoveryv1.EndpointSlice
		deleted bool
		want    bool
	}{
		{"the echo", version("a", "1", "10"), false, false},
		{"an earlier version", version("a", "1", "9"), false, false},
		{"somebody wrote after us", version("a", "1", "11"), false, true},
		{"somebody deleted it", version("a", "1", "12"), true, true},
		{"another object of the name", version("a", "2", "12"), false, true},
		{"another slice", version("b", "3", "2"), false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWritten[*discoveryv1.EndpointSlice](testingclock.NewFakePassiveClock(time.Now()))
			w.put(svc, version("a", "1", "10"))
			if got := w.seen(svc, c.event, c.deleted); got != c.want {
				t.Errorf("news: %v, want %v", got, c.want)
			}
		})
	}
}

func TestWrittenExpires(t *testing.T) {
	svc := types.NamespacedName{Namespace: "ns", Name: "web"}
	clk := testingclock.NewFakePassiveClock(time.Now())
	w := newWritten[*discoveryv1.EndpointSlice](clk)
	w.put(svc, version("a", "1", "10"))
	clk.SetTime(clk.Now().Add(memory))
	if got := w.newest(svc, nil); len(got) != 0 || w.pending(svc) {
		t.Errorf("still remembers %v", got)
	}
}

func TestUnmatchedLooksEverMoreRarely(t *testing.T) {
	var u unmatched
	svc := types.NamespacedName{Namespace: "ns", Name: "web"}
	now := time.Unix(0, 0)
	if due, again := u.due(svc, now); due || again != firstLook {
		t.Error("the first look must wait")
	}
	if due, again := u.due(svc, now.Add(firstLook/2)); due || again != 0 {
		t.Error("an event in between must not start a second row of looks")
	}
	last := time.Duration(0)
	for range 12 {
		now = now.Add(max(last, firstLook))
		due, again := u.due(svc, now)
		if !due || again < last {
			t.Fatalf("due %v, again in %v after %v", due, again, last)
		}
		last = again
	}
	if last != lastLook {
		t.Errorf("looks every %v at last", last)
	}
}

package garbage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/watch"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	discoveryfake "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/lru"

	"portico.dev/portico/internal/controllers/resources"
)

var (
	configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	widgets    = schema.GroupVersionResource{Group: "example.org", Version: "v1", Resource: "widgets"}
)

// thing is a ConfigMap; owners are names, "name" or "Kind/name" or "name=uid".
func thing(name string, owners ...string) *object {
	o := &object{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)},
	}
	block := true
	for _, owner := range owners {
		ref := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: owner, BlockOwnerDeletion: &block}
		if kind, rest, ok := strings.Cut(owner, "/"); ok {
			ref.APIVersion, ref.Kind, ref.Name = "example.org/v1", kind, rest
		}
		ref.UID = types.UID("uid-" + ref.Name)
		if n, uid, ok := strings.Cut(owner, "="); ok {
			ref.Name, ref.UID = n, types.UID(uid)
		}
		o.OwnerReferences = append(o.OwnerReferences, ref)
	}
	return o
}

func deleted(o *object, finalizer string) *object {
	now := metav1.NewTime(time.Unix(1000, 0))
	o.DeletionTimestamp, o.Finalizers = &now, []string{finalizer}
	return o
}

type fixture struct {
	*testing.T
	client *fake.FakeMetadataClient
}

func start(t *testing.T, prepare func(*fake.FakeMetadataClient), objects ...*object) *fixture {
	return startAt(t, clock.RealClock{}, prepare, objects...)
}

func startAt(t *testing.T, clk clock.WithTicker, prepare func(*fake.FakeMetadataClient), objects ...*object) *fixture {
	scheme := fake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	var list []runtime.Object
	for _, o := range objects {
		list = append(list, o)
	}
	client := fake.NewSimpleMetadataClient(scheme, list...)
	if prepare != nil {
		prepare(client)
	}
	writeAfterWatch(client)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Run(ctx, Deps{Metadata: client, Discovery: serving(), Log: slog.New(slog.DiscardHandler), Clock: clk})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &fixture{T: t, client: client}
}

// serving is an API with ConfigMaps and Widgets.
func serving() *discoveryfake.FakeDiscovery {
	verbs := metav1.Verbs{"get", "list", "watch", "delete", "patch"}
	return &discoveryfake.FakeDiscovery{Fake: &clienttesting.Fake{Resources: []*metav1.APIResourceList{
		{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: verbs}}},
		{GroupVersion: "example.org/v1", APIResources: []metav1.APIResource{{Name: "widgets", Kind: "Widget", Namespaced: true, Verbs: verbs}}},
	}}}
}

// writeAfterWatch refuses writes until the watch has begun: the fake server has no
// resource versions, so what changes between a list and its watch is never told.
func writeAfterWatch(client *fake.FakeMetadataClient) {
	var watching atomic.Bool
	client.PrependWatchReactor("configmaps", func(a clienttesting.Action) (bool, watch.Interface, error) {
		w, err := client.Tracker().Watch(a.GetResource(), a.GetNamespace())
		watching.Store(true)
		return true, w, err
	})
	for _, verb := range []string{"delete", "patch"} {
		client.PrependReactor(verb, "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			if watching.Load() {
				return false, nil, nil
			}
			return true, nil, apierrors.NewConflict(configMaps.GroupResource(), "", errors.New("nobody watches yet"))
		})
	}
}

// left prints the objects that exist, with their owners and finalizers.
func (f *fixture) left() string {
	list, err := f.client.Resource(configMaps).List(f.Context(), metav1.ListOptions{})
	if err != nil {
		f.Fatal(err)
	}
	var out []string
	for _, o := range list.Items {
		text := o.Name
		for _, ref := range o.OwnerReferences {
			text += "<" + ref.Name
		}
		for _, fin := range o.Finalizers {
			text += "!" + fin
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (f *fixture) until(want string) {
	f.Helper()
	deadline := time.Now().Add(30 * time.Second)
	got := ""
	for time.Now().Before(deadline) {
		if got = f.left(); got == want {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	f.Fatalf("left  %s\nwant  %s", got, want)
}

// API-09: what is left without owners goes, all the way down; the rest stays.
func TestBackground(t *testing.T) {
	f := start(t, nil,
		thing("root"), thing("child", "root"), thing("grandchild", "child"),
		thing("shared", "root", "gone"),
		thing("stale", "root=another-uid"),
		thing("lost", "gone"), thing("lostchild", "lost"))
	f.until("child<root grandchild<child root shared<root")
	if err := f.client.Resource(configMaps).Namespace("ns").Delete(t.Context(), "root", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.until("")
}

// Never delete when unsure: an owner of a kind that isn't served, an answer that
// isn't about the object.
func TestUnsure(t *testing.T) {
	f := start(t, func(c *fake.FakeMetadataClient) {
		c.PrependReactor("get", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
			switch a.(clienttesting.GetAction).GetName() {
			case "down":
				return true, nil, apierrors.NewServiceUnavailable("no")
			case "unserved":
				return true, nil, apierrors.NewGenericServerResponse(http.StatusNotFound, "get", configMaps.GroupResource(), "unserved", "404 page not found", 0, true)
			}
			return false, nil, nil
		})
	}, thing("a", "Unknown/x"), thing("b", "down"), thing("c", "unserved"), thing("d", "Unknown/x", "gone"), thing("z", "gone"))
	f.until("a<x b<down c<unserved d<x<gone")
	// All of them have been looked at by the time a later one is deleted.
	made := thing("later", "gone")
	if _, err := f.client.Resource(configMaps).Namespace("ns").(fake.MetadataClient).CreateFake(made, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	f.until("a<x b<down c<unserved d<x<gone")
}

// An owner that somebody named wrongly isn't gone for those that name it right: the memory
// of owners that are gone must not be filled from another namespace.
func TestWrongReferenceToALivingOwner(t *testing.T) {
	scheme := fake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	served, err := resources.Discover(t.Context(), serving())
	if err != nil {
		t.Fatal(err)
	}
	c := &controller{Deps: Deps{Metadata: fake.NewSimpleMetadataClient(scheme, thing("root"))}, served: served, absent: lru.New(absentOwners)}
	right := thing("child", "root").OwnerReferences[0]
	renamed := thing("child", "other=uid-root").OwnerReferences[0]
	for _, dependent := range []struct {
		namespace string
		ref       metav1.OwnerReference
		want      ownerState
	}{{"elsewhere", right, ownerAbsent}, {"ns", renamed, ownerAbsent}, {"ns", right, ownerPresent}} {
		is, err := c.owner(t.Context(), dependent.namespace, dependent.ref)
		if err != nil || is != dependent.want {
			t.Errorf("%s in %s: %v, %v", dependent.ref.Name, dependent.namespace, is, err)
		}
	}
}

// API-09: an owner that goes before its kind's first list is told by nobody. Its dependents,
// which were judged while it lived, are looked at as soon as the list is here.
func TestOwnerGoesBeforeItsKindIsListed(t *testing.T) {
	var listable atomic.Bool
	var judged atomic.Int32
	widget := func(name string) *object {
		w := thing(name)
		w.TypeMeta = metav1.TypeMeta{APIVersion: "example.org/v1", Kind: "Widget"}
		return w
	}
	clk := clocktesting.NewFakeClock(time.Now()) // it steps past startWait
	f := startAt(t, clk, func(c *fake.FakeMetadataClient) {
		c.PrependReactor("list", "widgets", func(clienttesting.Action) (bool, runtime.Object, error) {
			return !listable.Load(), nil, apierrors.NewServiceUnavailable("not yet")
		})
		c.PrependReactor("get", "widgets", func(clienttesting.Action) (bool, runtime.Object, error) {
			judged.Add(1)
			return false, nil, nil
		})
	}, widget("root"), widget("other"), thing("child", "Widget/root"), thing("kept", "Widget/other"))
	for judged.Load() < 2 && t.Context().Err() == nil {
		clk.Step(startWait)
		time.Sleep(time.Millisecond)
	}
	if err := f.client.Resource(widgets).Namespace("ns").Delete(t.Context(), "root", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.until("child<root kept<other")
	listable.Store(true)
	f.until("kept<other")
}

// API-09: foreground deletion waits for the dependents that block.
func TestForeground(t *testing.T) {
	f := start(t, nil, deleted(thing("root"), metav1.FinalizerDeleteDependents), thing("child", "root"), thing("shared", "root", "other"), thing("other"))
	// The fake server doesn't delete what has lost its last finalizer.
	f.until("other root shared<other")
}

// The end of the last dependent that blocks is what an owner waits for.
func TestForegroundIsWoken(t *testing.T) {
	f := start(t, nil, deleted(thing("root"), metav1.FinalizerDeleteDependents), thing("child", "root"))
	f.until("root")
}

// API-09: orphans stay and lose their reference.
func TestOrphan(t *testing.T) {
	f := start(t, nil, deleted(thing("root"), metav1.FinalizerOrphanDependents), thing("child", "root"), thing("shared", "root", "other"), thing("other"))
	f.until("child other root shared<other")
}

// The orphans' owner isn't let go before every list has been read.
func TestOrphanNeedsEveryList(t *testing.T) {
	var tries atomic.Int32
	f := start(t, func(c *fake.FakeMetadataClient) {
		c.PrependReactor("list", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if a.GetNamespace() == "" {
				return false, nil, nil // the cache's list, or the test's
			}
			if tries.Add(1) <= 3 {
				return true, nil, fmt.Errorf("broken")
			}
			return false, nil, nil
		})
		c.PrependReactor("patch", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if tries.Load() <= 3 {
				t.Error("patched before the list could be read")
			}
			return false, nil, nil
		})
	}, deleted(thing("root"), metav1.FinalizerOrphanDependents), thing("child", "root"))
	f.until("child root")
}

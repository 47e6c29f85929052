package etcd

import (
	"context"
	"strconv"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
)

var versions = storage.APIObjectVersioner{}

// startTelling starts a store that tells idle watches of progress ten times a second.
func startTelling(t *testing.T) (*Embedded, *clientv3.Client, context.Context) {
	e, client := startWith(t, settings{quota: quotaBytes, commitEvery: commitEvery, progressEvery: 100 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return e, client, ctx
}

// API-09: the watch cache of a kind that nobody writes follows the store, whose old
// revisions vanish.
func TestIdleCacheFollows(t *testing.T) {
	e, client, ctx := startTelling(t)
	store, _ := configMaps(t, &Options{Source: e})
	other, err := client.Put(ctx, Prefix+"/other", "1")
	if err != nil {
		t.Fatal(err)
	}
	for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		var list corev1.ConfigMapList
		if err := store.GetList(ctx, "/configmaps", storage.ListOptions{ResourceVersion: "0", Predicate: storage.Everything, Recursive: true}, &list); err != nil {
			continue // it isn't filled yet
		}
		version, err := versions.ParseResourceVersion(list.ResourceVersion)
		if err != nil {
			t.Fatal(err)
		}
		if int64(version) >= other.Header.Revision {
			return
		}
	}
	t.Errorf("not at revision %d after 30 s", other.Header.Revision)
}

// API-09: where there is no watch cache, a watch of a kind that nobody writes gets bookmarks, and
// so can begin again after older revisions are gone.
func TestIdleWatchFollows(t *testing.T) {
	e, client, ctx := startTelling(t)
	store, _ := configMaps(t, &Options{Source: e, Uncached: func(schema.GroupResource) bool { return true }})
	first, err := client.Put(ctx, Prefix+"/other", "1")
	if err != nil {
		t.Fatal(err)
	}
	predicate := storage.Everything
	predicate.AllowWatchBookmarks = true
	idle, err := store.Watch(ctx, "/configmaps", storage.ListOptions{
		ResourceVersion: strconv.FormatInt(first.Header.Revision, 10), Predicate: predicate, Recursive: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Stop()
	second, err := client.Put(ctx, Prefix+"/other", "2")
	if err != nil {
		t.Fatal(err)
	}
	for event := range idle.ResultChan() {
		if event.Type != watch.Bookmark {
			t.Fatalf("%s: %v", event.Type, event.Object)
		}
		version, err := versions.ObjectResourceVersion(event.Object)
		if err != nil {
			t.Fatal(err)
		}
		if int64(version) >= second.Header.Revision {
			return
		}
	}
	t.Errorf("no bookmark of revision %d within 30 s", second.Header.Revision)
}

// Package fakewatch is for tests with client-go's fake servers. What is deleted there between
// a list and the watch that follows it is never told, so a test has to know when the watch
// has begun.
//
// In: a fake clientset. Out: a function that waits. It changes nothing that the fake does.
package fakewatch

import (
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"
)

// patience is how long a watch may take to begin on a busy machine.
const patience = 30 * time.Second

// Server is a fake clientset.
type Server interface {
	PrependWatchReactor(resource string, reaction clienttesting.WatchReactionFunc)
	Tracker() clienttesting.ObjectTracker
}

// Of has wait return once all these resources are watched. It is called before whoever
// watches is started.
func Of(t testing.TB, server Server, resources ...string) (wait func()) {
	var begun []chan struct{}
	for _, resource := range resources {
		watched := make(chan struct{})
		begun = append(begun, watched)
		tell := sync.OnceFunc(func() { close(watched) })
		server.PrependWatchReactor(resource, func(a clienttesting.Action) (bool, watch.Interface, error) {
			var since metav1.ListOptions // without them what was written since the list isn't told either
			if a, ok := a.(clienttesting.WatchActionImpl); ok {
				since = a.ListOptions
			}
			w, err := server.Tracker().Watch(a.GetResource(), a.GetNamespace(), since)
			if err == nil {
				tell()
			}
			return true, w, err
		})
	}
	return func() {
		t.Helper()
		late := time.After(patience)
		for i, watched := range begun {
			select {
			case <-watched:
			case <-late:
				t.Fatalf("nobody watches %s after %v", resources[i], patience)
			}
		}
	}
}

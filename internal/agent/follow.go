package agent

import (
	"context"
	"io"
	"log/slog"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

type (
	listFunc  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watchFunc func(context.Context, metav1.ListOptions) (apiwatch.Interface, error)
)

// lister loses the type of a typed client's list.
func lister[L runtime.Object](list func(context.Context, metav1.ListOptions) (L, error)) listFunc {
	return func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return list(ctx, o) }
}

// few is how many objects are listed in one answer, which is here sooner than a stream of
// them: an agent's whole start with 1,000 Services lasts some 15 ms less. More are streamed
// (KEP-3157), or the decoded list would be the most memory that an agent ever takes.
const few = 2500

// follower follows one resource by a reflector.
type follower struct {
	client  kubernetes.Interface
	single  bool // there is one object at most
	few     int64
	all     cache.ListWatch
	reflect func(cache.ListerWatcher) *cache.Reflector
}

// follow makes the follower of a resource. tweak narrows what is asked for; nil: all.
func follow[O object](client kubernetes.Interface, name string, log *slog.Logger, tweak func(*metav1.ListOptions), list listFunc, watch watchFunc, into cache.ReflectorStore) *follower {
	if tweak == nil {
		tweak = func(*metav1.ListOptions) {}
	}
	logger := logr.FromSlogHandler(log.Handler())
	var expected O
	return &follower{
		client: client, few: few,
		all: cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				tweak(&o)
				return list(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
				tweak(&o)
				w, err := watch(ctx, o)
				if err != nil && ctx.Err() != nil {
					return nil, io.EOF // the end of all; anything else would be told as a failure
				}
				return w, err
			},
		},
		reflect: func(lw cache.ListerWatcher) *cache.Reflector {
			return cache.NewReflectorWithOptions(lw, expected, into, cache.ReflectorOptions{Name: "agent/" + name, Logger: &logger})
		},
	}
}

// followOne makes the follower of the object of that name.
func followOne[O object](client kubernetes.Interface, kind, name string, log *slog.Logger, list listFunc, watch watchFunc, into cache.ReflectorStore) *follower {
	f := follow[O](client, kind, log, byName(name), list, watch, into)
	f.single = true
	return f
}

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) {
	lw := cache.ToListWatcherWithWatchListSemantics(&f.all, f.client)
	if f.single || f.areFew(ctx) {
		lw = atOnce{&f.all}
	}
	f.reflect(lw).RunWithContext(ctx)
}

// areFew asks how many there are. Where the answer fails or tells too little, they count as many.
func (f *follower) areFew(ctx context.Context) bool {
	one, err := f.all.ListWithContext(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return false // the reflector will say so
	}
	list, err := meta.ListAccessor(one)
	if err != nil {
		return false
	}
	rest := list.GetRemainingItemCount()
	return list.GetContinue() == "" || rest != nil && *rest < f.few
}

// atOnce has a reflector list all in one answer.
type atOnce struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is what a reflector looks for before it streams.
func (atOnce) IsWatchListSemanticsUnSupported() bool { return true }

// ListWithContext implements cache.ListerWatcherWithContext. The first list is the newest, as a
// streamed one is: one from a cache that is behind would take the kernel back.
func (a atOnce) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	if o.ResourceVersion == "0" {
		o.ResourceVersion, o.Limit = "", 0
	}
	return a.ListWatch.ListWithContext(ctx, o)
}

package admissionchain

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"
	"k8s.io/component-base/compatibility"
)

const (
	// readyTime is how long a request waits for caches of a server that just started.
	readyTime = 10 * time.Second
	readyPoll = 20 * time.Millisecond
	// rediscover is how often kinds of parameters are looked up anew, as upstream.
	rediscover = 30 * time.Second
)

// Config is what Hooks needs.
type Config struct {
	Kube      clientset.Interface
	Dynamic   dynamic.Interface
	Informers informers.SharedInformerFactory
	Decides   authorizer.Authorizer
	Version   compatibility.EffectiveVersion
	Resolver  webhook.ServiceResolver
	Store     *clientv3.Client
	// Prefixes are the keys of the store below which configurations and policies lie.
	Prefixes []string
	Log      *slog.Logger
}

// Hooks is admission by what users configured: webhooks and policies. It sleeps until
// the first configuration is stored: the library's plugins prepare eight CEL
// environments each and follow seven resources, some 10 MB and as many watches, and
// most installations have no webhook at all. While it sleeps it costs one atomic load.
type Hooks struct {
	config Config
	awake  atomic.Pointer[plugins]
	once   sync.Once
	failed atomic.Pointer[error]
	done   sync.WaitGroup
}

// plugins are the library's four, in its order.
type plugins struct {
	mutate   []admission.MutationInterface
	validate []admission.ValidationInterface
}

var (
	_ admission.MutationInterface   = (*Hooks)(nil)
	_ admission.ValidationInterface = (*Hooks)(nil)
)

// NewHooks makes the admission; it is awake already when configurations are stored.
// Its caller starts the informers, once the server answers.
func NewHooks(ctx context.Context, config Config) (*Hooks, error) {
	h := &Hooks{config: config}
	for _, prefix := range config.Prefixes {
		revision, found, err := look(ctx, config.Store, prefix)
		if err != nil {
			return nil, err
		}
		if found {
			if err := h.wake(ctx); err != nil {
				return nil, err
			}
		}
		h.done.Go(func() { h.wait(ctx, prefix, revision) })
	}
	return h, nil
}

// Wait returns when nothing of it runs any more; after its context has ended.
func (h *Hooks) Wait() {
	if h != nil {
		h.done.Wait()
	}
}

// look says whether there is a key below prefix.
func look(ctx context.Context, store *clientv3.Client, prefix string) (revision int64, found bool, err error) {
	answer, err := store.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, false, fmt.Errorf("look for admission configurations: %w", err)
	}
	return answer.Header.Revision, answer.Count > 0, nil
}

// wait wakes the plugins at the first key below prefix that appears after revision.
func (h *Hooks) wait(ctx context.Context, prefix string, revision int64) {
	for ctx.Err() == nil && h.awake.Load() == nil {
		if h.watch(ctx, prefix, revision+1) {
			h.wakeLogged(ctx)
			return
		}
		// The watch ended: the store compacted past it, or was away.
		var found bool
		var err error
		if revision, found, err = look(ctx, h.config.Store, prefix); err == nil && found {
			h.wakeLogged(ctx)
			return
		}
		sleep(ctx, time.Second)
	}
}

func (h *Hooks) watch(ctx context.Context, prefix string, from int64) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for answer := range h.config.Store.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithFilterDelete()) {
		if len(answer.Events) > 0 {
			return true
		}
	}
	return false
}

func (h *Hooks) wakeLogged(ctx context.Context) {
	err := h.wake(ctx)
	h.config.Informers.StartWithContext(ctx)
	if err != nil && ctx.Err() == nil {
		h.config.Log.Error("admission by webhooks and policies can't begin; every write is refused", "err", err)
	}
}

// wake builds the plugins once. Should it fail, writes are refused from then on: a
// configuration may be there to refuse them.
func (h *Hooks) wake(ctx context.Context) error {
	h.once.Do(func() {
		p, err := h.build(ctx)
		if err != nil {
			h.failed.Store(&err)
			h.awake.Store(&plugins{})
			return
		}
		h.awake.Store(p)
	})
	if err := h.failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (h *Hooks) build(ctx context.Context) (*plugins, error) {
	changing, err := mutatingpolicy.NewPlugin(nil)
	if err != nil {
		return nil, fmt.Errorf("prepare mutating policies: %w", err)
	}
	mutating, err := mutatingwebhook.NewMutatingWebhook(nil)
	if err != nil {
		return nil, fmt.Errorf("prepare mutating webhooks: %w", err)
	}
	policies, err := validatingpolicy.NewPlugin(nil)
	if err != nil {
		return nil, fmt.Errorf("prepare validating policies: %w", err)
	}
	validating, err := validatingwebhook.NewValidatingAdmissionWebhook(nil)
	if err != nil {
		return nil, fmt.Errorf("prepare validating webhooks: %w", err)
	}
	c := h.config
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.Kube.Discovery()))
	h.done.Go(func() {
		for ctx.Err() == nil {
			sleep(ctx, rediscover)
			mapper.Reset()
		}
	})
	init := admission.PluginInitializers{
		initializer.New(c.Kube, c.Dynamic, c.Informers, c.Decides, utilfeature.DefaultFeatureGate, c.Version, ctx.Done(), mapper),
		webhookinit.NewPluginInitializer(nil, c.Resolver),
	}
	for _, plugin := range []admission.Interface{changing, mutating, policies, validating} {
		init.Initialize(plugin)
		if err := admission.ValidateInitialization(plugin); err != nil {
			return nil, fmt.Errorf("prepare admission by %T: %w", plugin, err)
		}
	}
	return &plugins{
		mutate:   []admission.MutationInterface{changing, mutating},
		validate: []admission.ValidationInterface{policies, validating},
	}, nil
}

// Handles implements admission.Interface.
func (h *Hooks) Handles(admission.Operation) bool { return h.awake.Load() != nil }

// Admit lets mutating policies and webhooks change the object; a second time where one
// asked for it because another changed the object after it.
func (h *Hooks) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	p, err := h.plugins(a)
	if p == nil || err != nil {
		return err
	}
	if err := p.admit(ctx, a, o); err != nil {
		return err
	}
	again := a.GetReinvocationContext()
	if !again.ShouldReinvoke() {
		return nil
	}
	again.SetIsReinvoke()
	return p.admit(ctx, a, o)
}

func (p *plugins) admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	for _, plugin := range p.mutate {
		if !plugin.Handles(a.GetOperation()) {
			continue
		}
		if err := plugin.Admit(ctx, a, o); err != nil {
			return err
		}
	}
	return nil
}

// Validate asks validating policies and webhooks.
func (h *Hooks) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	p, err := h.plugins(a)
	if p == nil || err != nil {
		return err
	}
	for _, plugin := range p.validate {
		if !plugin.Handles(a.GetOperation()) {
			continue
		}
		if err := plugin.Validate(ctx, a, o); err != nil {
			return err
		}
	}
	return nil
}

func (h *Hooks) plugins(a admission.Attributes) (*plugins, error) {
	if err := h.failed.Load(); err != nil {
		return nil, admission.NewForbidden(a, fmt.Errorf("webhooks and policies can't be asked: %w", *err))
	}
	return h.awake.Load(), nil
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// waitUntil polls for readiness as a request of a server that just started does.
func waitUntil(ctx context.Context, ready func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for !ready() {
		if ctx.Err() != nil {
			return false
		}
		sleep(ctx, readyPoll)
	}
	return true
}

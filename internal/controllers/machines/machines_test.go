package machines

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	testclock "k8s.io/utils/clock/testing"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/core/machine"
	"portico.dev/portico/internal/kubevirt"
	"portico.dev/portico/internal/kubevirt/fake"
)

const ns = "ns"

// world is a store, a node, and controllers whose caches see the store when the
// test says so.
type world struct {
	t        *testing.T
	clock    *testclock.FakeClock
	pods     *kubefake.Clientset
	tracker  clienttesting.ObjectTracker // of pods
	machines *fake.Client
	uids     int
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, clock: testclock.NewFakeClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)), pods: &kubefake.Clientset{},
		// kubefake.NewClientset's tracker knows managed fields, and is too slow for thousands of writes.
		tracker: clienttesting.NewObjectTracker(kubevirt.Scheme(), serializer.NewCodecFactory(kubevirt.Scheme()).UniversalDecoder()),
	}
	w.machines = fake.New(w.clock)
	w.pods.AddReactor("*", "*", clienttesting.ObjectReaction(w.tracker))
	w.pods.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		w.uids++
		a.(clienttesting.CreateAction).GetObject().(*corev1.Pod).UID = types.UID(fmt.Sprintf("pod-%d", w.uids))
		return false, nil, nil
	})
	// A pod with a guest doesn't go at once: its node ends it.
	w.pods.PrependReactor("delete", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		d := a.(clienttesting.DeleteActionImpl)
		obj, err := w.tracker.Get(a.GetResource(), a.GetNamespace(), d.GetName())
		grace := d.GetDeleteOptions().GracePeriodSeconds
		if err != nil || grace == nil || *grace == 0 {
			return false, nil, nil
		}
		pod := obj.(*corev1.Pod).DeepCopy()
		pod.DeletionTimestamp = &metav1.Time{Time: w.clock.Now()}
		pod.DeletionGracePeriodSeconds = grace
		return true, nil, w.tracker.Update(a.GetResource(), pod, a.GetNamespace())
	})
	return w
}

// newController has caches of its own, empty until look is called.
func (w *world) newController() *controller {
	index := func() cache.Indexer { return cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{}) }
	d := Deps{Client: w.pods, Machines: w.machines, Recorder: silent{}, Log: slog.New(slog.DiscardHandler), Clock: w.clock}
	return newController(d, index(), index(), index())
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// look brings some of the controller's caches up to date.
func (w *world) look(c *controller, machines, instances, pods bool) {
	w.t.Helper()
	if machines {
		w.must(c.machines.Replace(objects(w.listMachines()), ""))
	}
	if instances {
		w.must(c.instances.Replace(objects(w.listInstances()), ""))
	}
	if pods {
		w.must(c.pods.Replace(objects(w.listPods()), ""))
	}
}

func objects[T any](items []T) []any {
	out := make([]any, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

func (w *world) listMachines() []kubevirtv1.VirtualMachine {
	l, err := w.machines.VirtualMachines(ns).List(context.Background(), metav1.ListOptions{})
	w.must(err)
	return l.Items
}

func (w *world) listInstances() []kubevirtv1.VirtualMachineInstance {
	l, err := w.machines.VirtualMachineInstances(ns).List(context.Background(), metav1.ListOptions{})
	w.must(err)
	return l.Items
}

func (w *world) listPods() []corev1.Pod {
	l, err := w.pods.CoreV1().Pods(ns).List(context.Background(), metav1.ListOptions{})
	w.must(err)
	return l.Items
}

func (w *world) create(name string, strategy kubevirtv1.VirtualMachineRunStrategy) {
	w.t.Helper()
	memory := resource.MustParse("128Mi")
	_, err := w.machines.VirtualMachines(ns).Create(context.Background(), &kubevirtv1.VirtualMachine{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns},
		Spec: kubevirtv1.VirtualMachineSpec{RunStrategy: &strategy, Template: &kubevirtv1.VirtualMachineInstanceTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"special": "key"}},
			Spec:       kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{Memory: &kubevirtv1.Memory{Guest: &memory}}},
		}},
	}, metav1.CreateOptions{})
	w.must(err)
}

func (w *world) machine(name string) *kubevirtv1.VirtualMachine {
	vm, err := found(w.machines.VirtualMachines(ns).Get(context.Background(), name, metav1.GetOptions{}))
	w.must(err)
	return vm
}

func (w *world) instance(name string) *kubevirtv1.VirtualMachineInstance {
	vmi, err := found(w.machines.VirtualMachineInstances(ns).Get(context.Background(), name, metav1.GetOptions{}))
	w.must(err)
	return vmi
}

// ask does what the subresource of the API server does.
func (w *world) ask(name, verb string) {
	w.t.Helper()
	vm, vmi := w.machine(name), w.instance(name)
	var change machine.Change
	var err error
	switch verb {
	case "start":
		change, err = machine.StartMachine(vm, vmi, kubevirtv1.StartOptions{})
	case "stop":
		change, err = machine.StopMachine(vm, vmi, kubevirtv1.StopOptions{})
	case "restart":
		change, err = machine.RestartMachine(vm, vmi, kubevirtv1.RestartOptions{})
	}
	w.must(err)
	change.Apply(vm)
	if change.ToStatus() {
		_, err = w.machines.VirtualMachines(ns).UpdateStatus(context.Background(), vm, metav1.UpdateOptions{})
	} else {
		_, err = w.machines.VirtualMachines(ns).Update(context.Background(), vm, metav1.UpdateOptions{})
	}
	w.must(err)
}

// node does one step for each pod: bind it, run it, or end it and delete it.
func (w *world) node() {
	pods := w.pods.CoreV1().Pods(ns)
	for _, pod := range w.listPods() {
		var err error
		switch {
		case pod.Spec.NodeName == "":
			pod.Spec.NodeName = "node-a"
			pod.Status.Phase = corev1.PodPending
			_, err = pods.Update(context.Background(), &pod, metav1.UpdateOptions{})
		case pod.DeletionTimestamp != nil:
			err = w.tracker.Delete(corev1.SchemeGroupVersion.WithResource("pods"), ns, pod.Name)
		case pod.Status.Phase == corev1.PodPending:
			pod.Status.Phase = corev1.PodRunning
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			_, err = pods.UpdateStatus(context.Background(), &pod, metav1.UpdateOptions{})
		}
		w.must(err)
	}
}

// settle lets all see all and work until nothing changes, but for time.
func (w *world) settle(c *controller) {
	w.t.Helper()
	for range 30 {
		before := w.state()
		for _, vm := range w.listMachines() {
			k := key{Namespace: ns, Name: vm.Name}
			for _, sync := range []func(context.Context, key) error{c.syncMachine, c.syncInstance} {
				w.look(c, true, true, true)
				w.must(sync(context.Background(), k))
			}
		}
		w.node()
		if slices.Equal(before, w.state()) {
			return
		}
	}
	w.t.Fatalf("it doesn't settle: %v", w.state())
}

// state is what a person sees.
func (w *world) state() []string {
	var out []string
	for _, vm := range w.listMachines() {
		out = append(out, fmt.Sprintf("machine %s %s ready=%v requests=%d", vm.Name, vm.Status.PrintableStatus, vm.Status.Ready, len(vm.Status.StateChangeRequests)))
	}
	for _, vmi := range w.listInstances() {
		out = append(out, fmt.Sprintf("instance %s %s %v deleting=%v", vmi.Name, vmi.Status.Phase, vmi.Labels, vmi.DeletionTimestamp != nil))
	}
	for _, pod := range w.listPods() {
		name, _, _ := machine.InstanceOf(&pod)
		out = append(out, fmt.Sprintf("pod of %s %s special=%s deleting=%v", name.Name, pod.Status.Phase, pod.Labels["special"], pod.DeletionTimestamp != nil))
	}
	return out
}

func (w *world) want(state ...string) {
	w.t.Helper()
	if got := w.state(); !slices.Equal(got, state) {
		w.t.Errorf("state\n got %q\nwant %q", got, state)
	}
}

var runs = []string{
	"machine web Running ready=true requests=0",
	"instance web Running map[special:key] deleting=false",
	"pod of web Running special=key deleting=false",
}

// VM-01, VM-02: a machine's life, from its creation to its deletion.
func TestLife(t *testing.T) {
	w := newWorld(t)
	c := w.newController()
	w.create("web", kubevirtv1.RunStrategyAlways)
	w.settle(c)
	w.want(runs...)

	vm := w.machine("web")
	vm.Spec.Template.ObjectMeta.Labels["special"] = "other"
	_, err := w.machines.VirtualMachines(ns).Update(context.Background(), vm, metav1.UpdateOptions{})
	w.must(err)
	w.settle(c)
	w.want(runs...) // the instance keeps its labels
	if !slices.ContainsFunc(w.machine("web").Status.Conditions, func(c kubevirtv1.VirtualMachineCondition) bool { return c.Type == machine.LabelsPending }) {
		t.Error("no condition says that a label waits")
	}

	first := w.instance("web").UID
	w.ask("web", "restart")
	w.settle(c)
	w.want("machine web Running ready=true requests=0", "instance web Running map[special:other] deleting=false", "pod of web Running special=other deleting=false")
	if w.instance("web").UID == first {
		t.Error("a restart left the instance as it was")
	}

	w.ask("web", "stop")
	w.settle(c)
	w.want("machine web Stopped ready=false requests=0")
	w.ask("web", "start")
	w.settle(c)

	w.must(w.machines.VirtualMachines(ns).Delete(context.Background(), "web", metav1.DeleteOptions{}))
	w.look(c, true, true, true)
	w.must(c.syncMachine(context.Background(), key{Namespace: ns, Name: "web"}))
	if w.machine("web") == nil {
		t.Error("the machine, and its addresses, went before its guest")
	}
	w.settle(c)
	w.want()
}

// A machine leaves an instance alone that was there before, and says so.
func TestForeignInstance(t *testing.T) {
	w := newWorld(t)
	c := w.newController()
	_, err := w.machines.VirtualMachineInstances(ns).Create(context.Background(),
		&kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns}}, metav1.CreateOptions{})
	w.must(err)
	w.create("web", kubevirtv1.RunStrategyAlways)
	w.settle(c)
	failure := w.machine("web").Status.Conditions
	if !slices.ContainsFunc(failure, func(c kubevirtv1.VirtualMachineCondition) bool {
		return c.Type == kubevirtv1.VirtualMachineFailure && c.Status == corev1.ConditionTrue
	}) {
		t.Errorf("no failure: %v", failure)
	}
	w.must(w.machines.VirtualMachines(ns).Delete(context.Background(), "web", metav1.DeleteOptions{}))
	w.settle(c)
	if w.machine("web") != nil || w.instance("web") == nil || w.instance("web").DeletionTimestamp != nil {
		t.Errorf("after deleting the machine: %v", w.state())
	}
}

// A pod that is lost ends the instance. Always starts another at once: what was taken away
// has not crashed.
func TestLostPod(t *testing.T) {
	w := newWorld(t)
	c := w.newController()
	w.create("web", kubevirtv1.RunStrategyAlways)
	w.settle(c)
	for range 2 {
		first := w.instance("web").UID
		w.must(w.tracker.Delete(corev1.SchemeGroupVersion.WithResource("pods"), ns, w.listPods()[0].Name))
		w.settle(c)
		w.want(runs...)
		if w.instance("web").UID == first {
			t.Error("the instance outlived its pod")
		}
	}
	if f := w.machine("web").Status.StartFailure; f != nil {
		t.Errorf("failures %v of a machine whose pods were taken away", f)
	}
}

// A forced stop cuts the time short that a stop gave the guest.
func TestForcedStop(t *testing.T) {
	w := newWorld(t)
	c := w.newController()
	w.create("web", kubevirtv1.RunStrategyAlways)
	w.settle(c)
	k := key{Namespace: ns, Name: "web"}
	for _, want := range []int64{30, 5} {
		vmi := w.instance("web")
		if vmi.DeletionTimestamp == nil {
			w.must(w.machines.VirtualMachineInstances(ns).Delete(context.Background(), "web", metav1.DeleteOptions{}))
		} else {
			vmi.Spec.TerminationGracePeriodSeconds = &want
			_, err := w.machines.VirtualMachineInstances(ns).Update(context.Background(), vmi, metav1.UpdateOptions{})
			w.must(err)
		}
		w.look(c, true, true, true)
		w.must(c.syncInstance(context.Background(), k))
		if got := w.listPods()[0].DeletionGracePeriodSeconds; got == nil || *got != want {
			t.Errorf("grace %v, want %d", got, want)
		}
	}
}

// A controller whose cache is behind makes no pod for an instance that was
// stopped, or is gone, since.
func TestLateController(t *testing.T) {
	for _, name := range []string{"stopped", "gone"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			now, late := w.newController(), w.newController()
			k := key{Namespace: ns, Name: "web"}
			w.create("web", kubevirtv1.RunStrategyAlways)
			w.look(now, true, true, true)
			w.must(now.syncMachine(context.Background(), k))
			w.look(late, true, true, true)
			w.ask("web", "stop")
			if name == "gone" {
				w.settle(now)
			} else {
				w.look(now, true, true, true)
				w.must(now.syncMachine(context.Background(), k))
			}
			w.must(late.syncInstance(context.Background(), k))
			if pods := w.listPods(); len(pods) != 0 {
				t.Errorf("a pod for an instance that is %s", name)
			}
		})
	}
}

// Whatever order events come in, however far caches are behind, and with two
// controllers that both lead: the same children come out, at no time a machine
// has two live pods, and no machine goes before its guest.
func TestAnyOrderGivesTheSame(t *testing.T) {
	for seed := range uint64(12) { // 600 passed once; 12 are for every day
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t)
			rng := rand.New(rand.NewPCG(seed, 0))
			leaders := []*controller{w.newController(), w.newController()}
			names := []string{"always", "manual", "rerun", "halted", "goes"}
			w.create("always", kubevirtv1.RunStrategyAlways)
			w.create("manual", kubevirtv1.RunStrategyManual)
			w.create("rerun", kubevirtv1.RunStrategyRerunOnFailure)
			w.create("halted", kubevirtv1.RunStrategyHalted)
			w.create("goes", kubevirtv1.RunStrategyAlways)
			w.ask("manual", "start")

			orders := map[int]func(){ // at the n-th step somebody asks for something
				100: func() { w.tryAsk("always", "restart") },
				150: func() { w.tryAsk("rerun", "stop") },
				200: func() { w.tryAsk("manual", "restart") },
				250: func() {
					w.must(w.machines.VirtualMachines(ns).Delete(context.Background(), "goes", metav1.DeleteOptions{}))
				},
			}
			for step := range 400 {
				if order := orders[step]; order != nil {
					order()
				}
				c := leaders[rng.IntN(2)]
				k := key{Namespace: ns, Name: names[rng.IntN(len(names))]}
				switch rng.IntN(6) {
				case 0:
					w.look(c, rng.IntN(2) == 0, rng.IntN(2) == 0, rng.IntN(2) == 0)
				case 1, 2:
					_ = c.syncMachine(context.Background(), k) // conflicts are part of it
				case 3, 4:
					_ = c.syncInstance(context.Background(), k)
				case 5:
					w.node()
				}
				w.invariants()
			}
			w.settle(leaders[0])
			w.clock.Step(time.Hour)
			w.settle(leaders[0])
			w.want(
				"machine always Running ready=true requests=0", "machine halted Stopped ready=false requests=0",
				"machine manual Running ready=true requests=0", "machine rerun Stopped ready=false requests=0",
				"instance always Running map[special:key] deleting=false", "instance manual Running map[special:key] deleting=false",
				"pod of always Running special=key deleting=false", "pod of manual Running special=key deleting=false",
			)
		})
	}
}

// tryAsk asks; where the random past doesn't allow it now, it waits for calm.
func (w *world) tryAsk(name, verb string) {
	c := w.newController()
	w.settle(c)
	w.ask(name, verb)
}

func (w *world) invariants() {
	w.t.Helper()
	live := map[string]int{}
	for _, pod := range w.listPods() {
		name, uid, ok := machine.InstanceOf(&pod)
		if !ok {
			w.t.Fatalf("pod %s belongs to nothing", pod.Name)
		}
		live[name.Name]++
		vmi := w.instance(name.Name)
		if vmi == nil || vmi.UID != uid {
			w.t.Fatalf("pod %s outlived its instance", pod.Name)
		}
		if w.machine(name.Name) == nil {
			w.t.Fatalf("pod %s outlived its machine", pod.Name)
		}
	}
	for name, n := range live {
		if n > 1 {
			w.t.Fatalf("%d pods of %s", n, name)
		}
	}
}

package scheduling

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corev1listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/work"
)

// Deps is what Run needs.
type Deps struct {
	Client   kubernetes.Interface
	Caches   *caches.Shared       // of the term; nil: its own
	Recorder record.EventRecorder // nil: the condition alone says why a pod waits
	Log      *slog.Logger
	Clock    clock.WithTicker // nil: the real one
}

// scheduler is one term of the controller. Its one worker owns bound.
type scheduler struct {
	Deps
	queue *work.Queue[types.NamespacedName]
	pods  corev1listers.PodLister
	nodes corev1listers.NodeLister
	// bound are the pods that were bound here and that the cache still shows
	// without a node.
	bound map[types.UID]string
}

// Run schedules pods until ctx ends. An error means that it could not begin.
func Run(ctx context.Context, d Deps) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	pods, nodes := view.Core().V1().Pods(), view.Core().V1().Nodes()
	s := newScheduler(d, pods.Lister(), nodes.Lister())
	view.On(pods.Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: s.podSeen, UpdateFunc: func(_, obj any) { s.podSeen(obj) }, DeleteFunc: func(any) { s.retryAll() },
	})
	view.On(nodes.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: func(any) { s.retryAll() }, UpdateFunc: s.nodeChanged})
	if ok, err := view.Ready(); !ok {
		return err
	}
	s.queue.Run(ctx, 1, s.schedule) // one worker: see the package comment
	return nil
}

func newScheduler(d Deps, pods corev1listers.PodLister, nodes corev1listers.NodeLister) *scheduler {
	return &scheduler{
		Deps: d, queue: work.New[types.NamespacedName]("scheduling", d.Log, d.Clock),
		pods: pods, nodes: nodes, bound: map[types.UID]string{},
	}
}

// waits says whether a pod is for us to schedule.
func waits(pod *corev1.Pod) bool {
	ours := pod.Spec.SchedulerName == "" || pod.Spec.SchedulerName == corev1.DefaultSchedulerName
	return pod.Spec.NodeName == "" && ours && pod.DeletionTimestamp == nil && len(pod.Spec.SchedulingGates) == 0 && !ended(pod)
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func (s *scheduler) podSeen(obj any) {
	pod := obj.(*corev1.Pod)
	switch {
	case waits(pod):
		s.queue.Add(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
	case ended(pod):
		s.retryAll() // its place is free
	}
}

// nodeChanged looks at what scheduling looks at: nodes report every few seconds
// that they live, and that is no news.
func (s *scheduler) nodeChanged(before, after any) {
	a, b := before.(*corev1.Node), after.(*corev1.Node)
	same := a.ResourceVersion == b.ResourceVersion || a.Generation == b.Generation && isReady(a) == isReady(b) &&
		labels.Equals(a.Labels, b.Labels) && a.Spec.Unschedulable == b.Spec.Unschedulable && slices.Equal(a.Spec.Taints, b.Spec.Taints) &&
		sameRoom(a, b)
	if !same {
		s.retryAll()
	}
}

func sameRoom(a, b *corev1.Node) bool {
	x, y := a.Status.Allocatable, b.Status.Allocatable
	return x.Memory().Equal(*y.Memory()) && x.Cpu().Equal(*y.Cpu()) && x.Pods().Equal(*y.Pods())
}

func (s *scheduler) retryAll() {
	pods, _ := s.pods.List(labels.Everything()) // listing a cache can't fail
	for _, pod := range pods {
		if waits(pod) {
			s.queue.Add(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
		}
	}
}

// schedule decides on one pod.
func (s *scheduler) schedule(ctx context.Context, name types.NamespacedName) error {
	pod, err := s.pods.Pods(name.Namespace).Get(name.Name)
	if err != nil || !waits(pod) || s.bound[pod.UID] != "" {
		return nil // gone, or done
	}
	nodes, err := s.nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	loads, err := s.loads()
	if err != nil {
		return err
	}
	node, why := choose(pod, nodes, loads)
	if node == "" {
		return s.sayWhy(ctx, pod, why)
	}
	err = s.Client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil // it went, or was bound by somebody faster: the watch will tell
	case err != nil:
		return fmt.Errorf("bind pod %s to node %s: %w", name, node, err)
	}
	s.bound[pod.UID] = node
	s.event(pod, corev1.EventTypeNormal, "Scheduled", fmt.Sprintf("Successfully assigned %s to %s", name, node))
	return nil
}

// loads counts what each node has promised: to pods that the cache shows there,
// and to those that it doesn't show there yet.
func (s *scheduler) loads() (map[string]load, error) {
	pods, err := s.pods.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	loads := map[string]load{}
	still := map[types.UID]string{}
	for _, pod := range pods {
		node := pod.Spec.NodeName
		if node == "" {
			if node = s.bound[pod.UID]; node == "" {
				continue
			}
			still[pod.UID] = node
		}
		if ended(pod) {
			continue
		}
		l := loads[node]
		l.add(pod)
		loads[node] = l
	}
	s.bound = still
	return loads, nil
}

// sayWhy writes the reason, once, where people and the machines' controller look.
func (s *scheduler) sayWhy(ctx context.Context, pod *corev1.Pod, why string) error {
	wanted := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: why,
		LastTransitionTime: metav1.NewTime(s.Clock.Now()), ObservedGeneration: pod.Generation,
	}
	pod = pod.DeepCopy()
	at := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodScheduled })
	switch {
	case at < 0:
		pod.Status.Conditions = append(pod.Status.Conditions, wanted)
	default:
		old := pod.Status.Conditions[at]
		if old.Status == wanted.Status && old.Reason == wanted.Reason && old.Message == wanted.Message {
			return nil
		}
		if old.Status == wanted.Status {
			wanted.LastTransitionTime = old.LastTransitionTime
		}
		pod.Status.Conditions[at] = wanted
	}
	if _, err := s.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("write why pod %s/%s has no node: %w", pod.Namespace, pod.Name, err)
	}
	s.event(pod, corev1.EventTypeWarning, "FailedScheduling", why)
	return nil
}

func (s *scheduler) event(pod *corev1.Pod, kind, reason, message string) {
	if s.Recorder != nil {
		s.Recorder.Event(pod, kind, reason, message)
	}
}

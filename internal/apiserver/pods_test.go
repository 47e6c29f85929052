package apiserver_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/typed/core/v1"
)

func makePod(t *testing.T, pods v1.PodInterface, name, node string) *corev1.Pod {
	t.Helper()
	pod, err := pods.Create(context.Background(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 80}}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func TestPodIsDeletedGracefully(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx := context.Background()
	pods := s.Kube.CoreV1().Pods("default")
	remove := func(name string, grace int64) {
		t.Helper()
		if err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
			t.Fatal(err)
		}
	}
	is := func(name string, grace int64) {
		t.Helper()
		pod, err := pods.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := pod.DeletionGracePeriodSeconds; pod.DeletionTimestamp == nil || got == nil || *got != grace {
			t.Errorf("%s: grace period %v, want %d", name, got, grace)
		}
	}
	isGone := func(name string) {
		t.Helper()
		if _, err := pods.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s: got %v, want 404", name, err)
		}
	}
	makePod(t, pods, "runs", "node-a")
	if err := pods.Delete(ctx, "runs", *metav1.NewPreconditionDeleteOptions("another")); !apierrors.IsConflict(err) {
		t.Errorf("another UID: got %v, want 409", err)
	}
	if err := pods.Delete(ctx, "runs", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	is("runs", 30)
	remove("runs", 40)
	is("runs", 30) // never longer
	remove("runs", 5)
	is("runs", 5)
	remove("runs", 0)
	isGone("runs")

	makePod(t, pods, "negative", "node-a")
	remove("negative", -1)
	is("negative", 1)

	makePod(t, pods, "unscheduled", "")
	remove("unscheduled", 30)
	isGone("unscheduled")

	ended := makePod(t, pods, "ended", "node-a")
	ended.Status.Phase = corev1.PodSucceeded
	if _, err := pods.UpdateStatus(ctx, ended, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	remove("ended", 30)
	isGone("ended")
}

func TestPodBindsOnce(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx := context.Background()
	pods := s.Kube.CoreV1().Pods("default")
	pod := makePod(t, pods, "web", "")
	bind := func(name, node string, uid types.UID) error {
		return pods.Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: name, UID: uid}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}, metav1.CreateOptions{})
	}
	if err := bind("web", "node-a", "another"); !apierrors.IsConflict(err) {
		t.Errorf("another UID: got %v", err)
	}
	if err := bind("absent", "node-a", ""); !apierrors.IsNotFound(err) {
		t.Errorf("absent: got %v", err)
	}
	if err := bind("web", "", ""); !apierrors.IsBadRequest(err) {
		t.Errorf("no node: got %v", err)
	}
	if err := bind("web", "node-a", pod.UID); err != nil {
		t.Fatal(err)
	}
	if err := bind("web", "node-b", pod.UID); !apierrors.IsConflict(err) {
		t.Errorf("twice: got %v", err)
	}
	for selector, want := range map[string]int{
		"spec.nodeName=node-a": 1, "spec.nodeName=node-b": 0, "spec.nodeName!=node-a": 0, "status.phase=Pending": 1,
		"spec.host=node-a": 1, "metadata.name=web": 1,
	} {
		list, err := pods.List(ctx, metav1.ListOptions{FieldSelector: selector})
		if err != nil || len(list.Items) != want {
			t.Errorf("%s: got %d pods, %v; want %d", selector, len(list.Items), err, want)
		}
	}
	if _, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.color=red"}); !apierrors.IsBadRequest(err) {
		t.Errorf("unknown selector: got %v", err)
	}
	pod, err := pods.Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Spec.NodeName = "node-b"
	if _, err := pods.Update(ctx, pod, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("moved by an update: got %v", err)
	}
	ask(t, s, "GET", "/api/v1/namespaces/default/pods/web", "").want(t, 200, `"restartPolicy":"Always"`, `"protocol":"TCP"`, `"terminationGracePeriodSeconds":30`)
}

// The main resource and its status don't change each other; the generation counts
// changes of the spec.
func TestStatusAndSpecAreApart(t *testing.T) {
	t.Parallel()
	s := start(t)
	ask(t, s, "POST", vmsPath, vm("web", "", manual)).want(t, 201)
	patch := func(path, body string) answer {
		t.Helper()
		client := httpClient(t, s)
		return askWith(t, client, s.Config.Host, "PATCH", path, "application/merge-patch+json", body).want(t, 200)
	}
	both := `{"metadata":{"labels":{"l":"x"}},"spec":{"runStrategy":"Halted"},"status":{"printableStatus":"Odd"}}`
	got := patch(vmsPath+"/web/status", both)
	if got.field(t, "status.printableStatus") != "Odd" || got.field(t, "spec.runStrategy") != "Manual" || got.field(t, "metadata.labels") != nil ||
		fmt.Sprint(got.field(t, "metadata.generation")) != "1" {
		t.Errorf("by the status: %s", got.body)
	}
	got = patch(vmsPath+"/web", `{"spec":{"runStrategy":"Halted"},"status":{"printableStatus":"Other"}}`)
	if got.field(t, "status.printableStatus") != "Odd" || got.field(t, "spec.runStrategy") != "Halted" || fmt.Sprint(got.field(t, "metadata.generation")) != "2" {
		t.Errorf("by the spec: %s", got.body)
	}
	got = patch(vmsPath+"/web", `{"metadata":{"labels":{"l":"y"}}}`)
	if fmt.Sprint(got.field(t, "metadata.generation")) != "2" {
		t.Errorf("a label counted: %s", got.body)
	}
	// A Service: its status takes the load balancer's answer, and a finalizer along.
	ask(t, s, "POST", "/api/v1/namespaces/default/services", `{"metadata":{"name":"lb"},"spec":{"type":"LoadBalancer","ports":[{"port":80}]}}`).want(t, 201)
	got = patch("/api/v1/namespaces/default/services/lb/status",
		`{"metadata":{"finalizers":["service.kubernetes.io/load-balancer-cleanup"]},"spec":{"externalIPs":["192.0.2.9"]},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}`)
	got.want(t, 200, `"ipMode":"VIP"`, "load-balancer-cleanup")
	if got.field(t, "spec.externalIPs") != nil {
		t.Errorf("the status changed the spec: %s", got.body)
	}
	askWith(t, httpClient(t, s), s.Config.Host, "PATCH", "/api/v1/namespaces/default/services/lb/status", "application/merge-patch+json",
		`{"status":{"loadBalancer":{"ingress":[{"ip":"nonsense"}]}}}`).want(t, 422, "status.loadBalancer.ingress[0].ip")
	// A new node brings its status, as kubelets do.
	ask(t, s, "POST", "/api/v1/nodes", `{"metadata":{"name":"node-a"},"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.7"}]}}`).want(t, 201, "192.0.2.7")
	got = patch("/api/v1/nodes/node-a/status", `{"metadata":{"labels":{"kubernetes.io/os":"linux"}},"spec":{"unschedulable":true},"status":{"phase":"Running"}}`)
	if got.field(t, "spec.unschedulable") != nil || got.field(t, "status.phase") != "Running" {
		t.Errorf("got %s", got.body)
	}
	got.want(t, 200, `"kubernetes.io/os":"linux"`)
}

package ownership_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/machine"
	"portico.dev/portico/internal/kubevirt"
)

// caller is a user of the API.
type caller struct {
	kube kubernetes.Interface
	vms  kubevirt.Interface
}

func newCaller(t *testing.T, config *rest.Config) caller {
	t.Helper()
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	vms, err := kubevirt.NewForConfig(config, nil)
	if err != nil {
		t.Fatal(err)
	}
	return caller{kube, vms}
}

// user may do with the resources of kubevirt.io what verbs say, and all with pods.
func user(t *testing.T, s *apitest.Server, name string, resources ...string) caller {
	t.Helper()
	cert, key, err := s.Authority.Client(name)
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(s.Config)
	config.ContentType, config.AcceptContentTypes = "", ""
	config.CertData, config.KeyData = cert, key
	_, err = s.Kube.RbacV1().Roles("default").Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"pods"}},
		{Verbs: []string{"*"}, APIGroups: []string{"kubevirt.io"}, Resources: resources},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Kube.RbacV1().RoleBindings("default").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := newCaller(t, config)
	apitest.Eventually(t, name+" has rights", func() error {
		_, err := c.kube.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		return err
	})
	return c
}

func template() kubevirtv1.VirtualMachineInstanceSpec {
	memory := resource.MustParse("64Mi")
	return kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{
		Memory: &kubevirtv1.Memory{Guest: &memory},
		Firmware: &kubevirtv1.Firmware{KernelBoot: &kubevirtv1.KernelBoot{
			Container: &kubevirtv1.KernelBootContainer{Image: "demo", KernelPath: "/vmlinuz"},
		}},
	}}
}

func refused(t *testing.T, what string, err error, why string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), "forbidden") || !strings.Contains(err.Error(), why) {
		t.Errorf("%s: got %v, want forbidden: %s", what, err, why)
	}
}

// VM-04, ALLOC-03: whoever may make instances or pods gets no other guest's addresses,
// name or endpoint by a forged owner.
func TestForgedOwners(t *testing.T) {
	s := apitest.Start(t)
	ctx := t.Context()
	if _, err := s.Kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	admin := newCaller(t, s.Config)
	mallory := user(t, s, "mallory", "virtualmachineinstances")                // and no machines
	owner := user(t, s, "owner", "virtualmachines", "virtualmachineinstances") // may do both
	podOnly := user(t, s, "pods-only", "virtualmachineinstancemigrations")     // neither
	halted := kubevirtv1.RunStrategyHalted
	vm, err := admin.vms.VirtualMachines("default").Create(ctx, &kubevirtv1.VirtualMachine{
		ObjectMeta: metav1.ObjectMeta{Name: "victim", Namespace: "default"},
		Spec:       kubevirtv1.VirtualMachineSpec{RunStrategy: &halted, Template: &kubevirtv1.VirtualMachineInstanceTemplateSpec{Spec: template()}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	// An instance that claims to be the machine's.
	as := func(change func(*kubevirtv1.VirtualMachineInstance)) *kubevirtv1.VirtualMachineInstance {
		vmi := machine.InstanceFor(vm)
		if change != nil {
			change(vmi)
		}
		return vmi
	}
	create := func(c caller, vmi *kubevirtv1.VirtualMachineInstance) error {
		_, err := c.vms.VirtualMachineInstances("default").Create(ctx, vmi, metav1.CreateOptions{})
		return err
	}
	refused(t, "mallory takes the machine's place", create(mallory, as(nil)), `user "mallory" may not update it`)
	for what, change := range map[string]func(*kubevirtv1.VirtualMachineInstance){
		"a machine that isn't there":     func(v *kubevirtv1.VirtualMachineInstance) { v.OwnerReferences[0].Name = "none" },
		"a UID that isn't the machine's": func(v *kubevirtv1.VirtualMachineInstance) { v.OwnerReferences[0].UID = "forged" },
		"an instance of another name":    func(v *kubevirtv1.VirtualMachineInstance) { v.Name = "second" },
		"another's addresses":            func(v *kubevirtv1.VirtualMachineInstance) { v.Annotations[machine.AddressesAnnotation] = "10.245.9.9" },
		"another's MAC":                  func(v *kubevirtv1.VirtualMachineInstance) { v.Annotations[machine.MACAnnotation] = "02:70:0a:f5:09:09" },
		"an older version of the API": func(v *kubevirtv1.VirtualMachineInstance) {
			v.OwnerReferences[0].APIVersion, v.OwnerReferences[0].UID = "kubevirt.io/v1alpha3", "forged"
		},
	} {
		refused(t, what, create(owner, as(change)), "can't be controlled by VirtualMachine default/")
	}
	if err := create(owner, as(nil)); err != nil {
		t.Errorf("who may update the machine: %v", err)
	}
	vmi, err := admin.vms.VirtualMachineInstances("default").Get(ctx, "victim", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}

	// An own instance that becomes the machine's would give up its claims and keep its
	// addresses.
	lone := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Name: "lone", Namespace: "default"}, Spec: template()}
	if err := create(mallory, lone); err != nil {
		t.Fatal(err)
	}
	adopt, err := json.Marshal(map[string]any{"metadata": map[string]any{"ownerReferences": vmi.OwnerReferences}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]caller{"mallory": mallory, "owner": owner} {
		_, err = c.vms.VirtualMachineInstances("default").Patch(ctx, "lone", types.MergePatchType, adopt, metav1.PatchOptions{})
		refused(t, name+" adopts", err, "can't be controlled by VirtualMachine default/victim")
	}
	_, err = mallory.vms.VirtualMachineInstances("default").Patch(ctx, "victim", types.MergePatchType, []byte(`{"metadata":{"ownerReferences":null}}`), metav1.PatchOptions{})
	refused(t, "mallory cuts the machine's instance loose", err, "can't be taken from VirtualMachine default/victim")

	// A pod that claims to be the instance's.
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := machine.PodFor(vmi)
		p.Annotations = maps.Clone(p.Annotations)
		if change != nil {
			change(p)
		}
		return p
	}
	createPod := func(c caller, p *corev1.Pod) error {
		_, err := c.kube.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
		return err
	}
	refused(t, "a pod by who may make pods only", createPod(podOnly, pod(nil)), `user "pods-only" may not update it`)
	for what, change := range map[string]func(*corev1.Pod){
		"a pod with a forged UID":  func(p *corev1.Pod) { p.OwnerReferences[0].UID = "forged" },
		"a second pod":             func(p *corev1.Pod) { p.Name = "second" },
		"a pod, another's address": func(p *corev1.Pod) { p.Annotations[machine.AddressesAnnotation] = "10.245.9.9" },
	} {
		refused(t, what, createPod(owner, pod(change)), "can't be controlled by VirtualMachineInstance default/")
	}
	if err := createPod(admin, pod(nil)); err != nil {
		t.Fatal(err)
	}
	// The real pod can't be turned to another address, nor be cut loose for that.
	name := machine.PodName(vmi)
	for body, why := range map[string]string{
		`{"metadata":{"annotations":{"portico.dev/addresses":"10.245.9.9"}}}`:                        "is its owner's and can't be changed",
		`{"metadata":{"annotations":{"portico.dev/addresses":"10.245.9.9"},"ownerReferences":null}}`: "is its owner's and can't be changed",
		`{"metadata":{"ownerReferences":null}}`:                                                      "can't be taken from VirtualMachineInstance default/victim",
	} {
		_, err := podOnly.kube.CoreV1().Pods("default").Patch(ctx, name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
		refused(t, body, err, why)
	}
	if _, err := podOnly.kube.CoreV1().Pods("default").Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("another change of the pod: %v", err)
	}
}

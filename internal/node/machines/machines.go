package machines

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/machine"
	"portico.dev/portico/internal/core/records"
	"portico.dev/portico/internal/node"
	"portico.dev/portico/internal/node/door"
	"portico.dev/portico/internal/vm"
	"portico.dev/portico/internal/vm/spec"
)

// Config is what Machines need.
type Config struct {
	VM *vm.Manager // its Adopt has been called
	// Instance reads one VirtualMachineInstance.
	Instance func(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstance, error)
	// Services reads the Services of one namespace and default/kubernetes.
	Services func(ctx context.Context, namespace string) ([]*catalog.Service, error)
	// ClusterDNS and ClusterDomain are what guests resolve names with.
	ClusterDNS    []netip.Addr
	ClusterDomain string
	Clock         clock.WithTicker
	Log           *slog.Logger
}

// Machines is a node.Runtime.
type Machines struct {
	cfg    Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu    sync.Mutex // guards the following
	loads map[types.UID]*load
}

// New makes the runtime.
func New(cfg Config) *Machines {
	ctx, cancel := context.WithCancel(context.Background())
	return &Machines{cfg: cfg, ctx: ctx, cancel: cancel, loads: map[types.UID]*load{}}
}

// Close ends all probing and waits for it; guests run on.
func (m *Machines) Close() {
	m.cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.loads {
		l.wait()
	}
}

// Runs implements node.Runtime.
func (m *Machines) Runs(pod *corev1.Pod) bool { return instanceOf(pod) != nil }

// instanceOf is the instance that the pod stands for.
func instanceOf(pod *corev1.Pod) *metav1.OwnerReference {
	o := metav1.GetControllerOf(pod)
	if o == nil || o.Kind != "VirtualMachineInstance" || !strings.HasPrefix(o.APIVersion, kubevirtv1.GroupVersion.Group+"/") {
		return nil
	}
	return o
}

// Find implements node.Runtime.
func (m *Machines) Find(pod *corev1.Pod) (node.Workload, error) {
	for _, g := range m.cfg.VM.Guests() {
		if g.Spec.PodUID == string(pod.UID) {
			return m.loadOf(g, wasReady(pod)), nil
		}
	}
	id := string(instanceOf(pod).UID) // a guest's id is its instance's UID
	if err := m.cfg.VM.Unknown(id); err != nil {
		return nil, err
	}
	if err := m.cfg.VM.Lost(id); err != nil {
		return nil, fmt.Errorf("%w: %w", node.ErrLost, err)
	}
	return nil, nil
}

// Unknown implements node.Runtime.
func (m *Machines) Unknown() []types.UID {
	var out []types.UID
	for _, id := range m.cfg.VM.UnknownGuests() {
		out = append(out, types.UID(id))
	}
	return out
}

// EndUnknown implements node.Runtime.
func (m *Machines) EndUnknown(ctx context.Context, instance types.UID, grace time.Duration) error {
	return m.cfg.VM.EndUnknown(ctx, string(instance), grace)
}

// Workloads implements node.Runtime.
func (m *Machines) Workloads() []node.Workload {
	var out []node.Workload
	for _, g := range m.cfg.VM.Guests() {
		out = append(out, m.loadOf(g, false))
	}
	return out
}

// Start implements node.Runtime.
func (m *Machines) Start(ctx context.Context, pod *corev1.Pod) (node.Workload, error) {
	owner := instanceOf(pod)
	vmi, err := m.cfg.Instance(ctx, pod.Namespace, owner.Name)
	if err == nil && vmi.UID != owner.UID {
		err = fmt.Errorf("another instance has its name (UID %s)", vmi.UID)
	}
	if err != nil {
		return nil, &node.StartError{Reason: "InstanceMissing", Err: fmt.Errorf("read the instance %s/%s: %w", pod.Namespace, owner.Name, err)}
	}
	if want := machine.PodName(vmi); pod.Name != want {
		return nil, &node.StartError{Reason: "InstanceMissing", Err: fmt.Errorf("the pod of instance %s/%s is %s, not %s", vmi.Namespace, vmi.Name, want, pod.Name)}
	}
	id, err := m.identity(pod, vmi)
	if err != nil {
		return nil, &node.StartError{Reason: "NoAddress", Err: err}
	}
	if id.Environment, err = m.environment(ctx, vmi); err != nil {
		return nil, &node.StartError{Reason: "NoEnvironment", Err: err}
	}
	s, err := spec.FromInstance(vmi, id)
	if err != nil {
		return nil, &node.StartError{Reason: "BadInstance", Err: err}
	}
	if err := m.evict(ctx, s.ID); err != nil {
		return nil, err
	}
	g, err := m.cfg.VM.Start(ctx, s)
	if err != nil {
		return nil, &node.StartError{Reason: vm.Reason(err), Err: err}
	}
	return m.loadOf(g, false), nil
}

// evict ends a guest of the same instance that another pod had: the instance was
// given a new pod, so the old one's guest is nobody's.
func (m *Machines) evict(ctx context.Context, id string) error {
	old, ok := m.cfg.VM.Guest(id)
	if !ok {
		return nil
	}
	if err := old.Stop(ctx, 0); err != nil {
		return err
	}
	return old.Remove()
}

// identity reads what the control plane claimed for the guest. It is the instance's: who
// may write pods must not choose it. The pod shows the same, for the endpoints are made
// of what its status says.
func (m *Machines) identity(pod *corev1.Pod, vmi *kubevirtv1.VirtualMachineInstance) (spec.Identity, error) {
	id := spec.Identity{PodUID: string(pod.UID)}
	for _, key := range []string{machine.MACAnnotation, machine.AddressesAnnotation} {
		if pod.Annotations[key] != vmi.Annotations[key] {
			return id, fmt.Errorf("pod %s/%s: annotation %s is %q, and its instance's is %q", pod.Namespace, pod.Name, key, pod.Annotations[key], vmi.Annotations[key])
		}
	}
	var err error
	if id.MAC, err = net.ParseMAC(vmi.Annotations[machine.MACAnnotation]); err != nil {
		return id, fmt.Errorf("instance %s/%s: annotation %s: %w", vmi.Namespace, vmi.Name, machine.MACAnnotation, err)
	}
	if id.Addresses, err = machine.Addresses(vmi); err == nil && len(id.Addresses) == 0 {
		err = errors.New("it has no address")
	}
	if err != nil {
		return id, fmt.Errorf("instance %s/%s: annotation %s: %w", vmi.Namespace, vmi.Name, machine.AddressesAnnotation, err)
	}
	for _, c := range pod.Spec.Containers {
		id.Ports = append(id.Ports, c.Ports...)
	}
	id.DNS, id.Search, err = m.resolver(vmi)
	return id, err
}

// environment describes the Services of now to a guest that starts: as for pods, it
// doesn't change while the guest runs.
func (m *Machines) environment(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (string, error) {
	all, err := machine.ServiceLinks(&vmi.ObjectMeta)
	if err != nil {
		return "", fmt.Errorf("instance %s/%s: %w", vmi.Namespace, vmi.Name, err)
	}
	services, err := m.cfg.Services(ctx, vmi.Namespace)
	if err != nil {
		return "", fmt.Errorf("read the Services that instance %s/%s is told of: %w", vmi.Namespace, vmi.Name, err)
	}
	return records.Shell(records.Environment(vmi.Namespace, services, all)), nil
}

// resolver is what the guest resolves names with, by the rules that pods have:
// the policy's servers, then those of dnsConfig.
func (m *Machines) resolver(vmi *kubevirtv1.VirtualMachineInstance) (servers []netip.Addr, search []string, err error) {
	if vmi.Spec.DNSPolicy != corev1.DNSNone {
		servers = append(servers, m.cfg.ClusterDNS...)
		svc := "svc." + m.cfg.ClusterDomain
		search = append(search, vmi.Namespace+"."+svc, svc, m.cfg.ClusterDomain)
	}
	if c := vmi.Spec.DNSConfig; c != nil {
		for _, s := range c.Nameservers {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return nil, nil, fmt.Errorf("spec.dnsConfig.nameservers: %w", err)
			}
			servers = append(servers, a)
		}
		search = append(search, c.Searches...)
	}
	return servers, search, nil
}

// Console opens a session at the serial console of an instance of this node.
func (m *Machines) Console(_ context.Context, namespace, instance string) (io.ReadWriteCloser, error) {
	err := door.ErrNoInstance
	for _, g := range m.cfg.VM.Guests() {
		if g.Spec.Namespace != namespace || g.Spec.Name != instance {
			continue
		}
		tty, openErr := g.Console()
		if openErr == nil {
			return tty, nil
		}
		err = openErr // an instance of this name that ended; a newer one may run
	}
	if errors.Is(err, door.ErrNoInstance) {
		return nil, fmt.Errorf("%s/%s: %w", namespace, instance, err)
	}
	return nil, err
}

// Source is a node with machines as its door shows them.
type Source struct {
	*node.Node
	*Machines
}

var (
	_ door.Source  = Source{}
	_ node.Runtime = (*Machines)(nil)
)

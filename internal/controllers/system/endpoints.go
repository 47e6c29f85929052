//lint:file-ignore SA1019 Endpoints are deprecated and still served (EP-04).

package system

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	core "portico.dev/portico/internal/core/endpoints"
)

// recheck is how often leases are looked at without news: one that runs out says
// nothing.
const recheck = 5 * time.Second

// Run keeps the endpoints of the two Services until ctx ends.
func Run(ctx context.Context, kube kubernetes.Interface, log *slog.Logger) error {
	all := informers.NewSharedInformerFactory(kube, 0)
	leases := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace(metav1.NamespaceSystem),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = leaseLabel + "=" + leaseValue }))
	c := &controller{
		kube: kube, log: log,
		nodes: all.Core().V1().Nodes().Lister().List, leases: leases.Coordination().V1().Leases().Lister().List,
	}
	wake := make(chan struct{}, 1)
	notify := cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(any, bool) { poke(wake) }, UpdateFunc: func(any, any) { poke(wake) }, DeleteFunc: func(any) { poke(wake) },
	}
	nodeInformer, leaseInformer := all.Core().V1().Nodes().Informer(), leases.Coordination().V1().Leases().Informer()
	for _, informer := range []cache.SharedIndexInformer{nodeInformer, leaseInformer} {
		if _, err := informer.AddEventHandler(notify); err != nil {
			return fmt.Errorf("watch nodes and leases: %w", err)
		}
	}
	all.Start(ctx.Done())
	leases.Start(ctx.Done())
	defer all.Shutdown()
	defer leases.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), nodeInformer.HasSynced, leaseInformer.HasSynced) {
		return nil
	}
	ticker := time.NewTicker(recheck)
	defer ticker.Stop()
	for {
		if err := c.sync(ctx); err != nil && ctx.Err() == nil {
			log.Warn("The endpoints of kubernetes and kube-dns were not written; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-ticker.C:
		}
	}
}

func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default: // one wake-up is due already
	}
}

type controller struct {
	kube   kubernetes.Interface
	log    *slog.Logger
	nodes  func(labels.Selector) ([]*corev1.Node, error)
	leases func(labels.Selector) ([]*coordinationv1.Lease, error)
}

// member is one address behind one of the Services.
type member struct {
	addr netip.Addr
	node string
	zone string
	port uint16
}

func (c *controller) sync(ctx context.Context) error {
	nodes, err := c.nodes(labels.Everything())
	if err != nil {
		return err
	}
	leases, err := c.leases(labels.Everything())
	if err != nil {
		return err
	}
	zones := map[string]string{}
	var dns []member
	for _, n := range nodes {
		zones[n.Name] = n.Labels[corev1.LabelTopologyZone]
		if !ready(n) {
			continue
		}
		for _, cidr := range n.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(cidr); err == nil {
				dns = append(dns, member{HostOf(p, 1), n.Name, zones[n.Name], dnsPort})
			}
		}
	}
	var api []member
	for _, lease := range leases {
		node := ""
		if lease.Spec.HolderIdentity != nil {
			node = *lease.Spec.HolderIdentity
		}
		for _, a := range living(lease, time.Now()) {
			api = append(api, member{a.Addr(), node, zones[node], a.Port()})
		}
	}
	err = c.publish(ctx, metav1.NamespaceSystem, DNSService, dns, []port{{"dns", corev1.ProtocolUDP, dnsPort}, {"dns-tcp", corev1.ProtocolTCP, dnsPort}})
	if err != nil {
		return err
	}
	return c.publish(ctx, metav1.NamespaceDefault, APIService, api, []port{{"https", corev1.ProtocolTCP, APIPort}})
}

func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

type port struct {
	name     string
	protocol corev1.Protocol
	number   int32
}

// publish writes a slice for each family that the Service has, and its Endpoints.
func (c *controller) publish(ctx context.Context, namespace, name string, members []member, ports []port) error {
	svc, err := c.kube.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read Service %s/%s: %w", namespace, name, err)
	}
	slices.SortFunc(members, func(a, b member) int { return a.addr.Compare(b.addr) })
	for _, family := range svc.Spec.IPFamilies {
		if err := c.writeSlice(ctx, slice(svc, family, members, ports)); err != nil {
			return err
		}
	}
	return c.writeEndpoints(ctx, endpoints(svc, members, ports))
}

func slice(svc *corev1.Service, family corev1.IPFamily, members []member, ports []port) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: svc.Name + "-" + strings.ToLower(string(family)), Namespace: svc.Namespace,
			Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name, discoveryv1.LabelManagedBy: "portico.dev"},
			OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(svc, corev1.SchemeGroupVersion.WithKind("Service")),
			},
		},
		AddressType: discoveryv1.AddressType(family),
	}
	for _, p := range ports {
		out.Ports = append(out.Ports, discoveryv1.EndpointPort{Name: &p.name, Protocol: &p.protocol, Port: &p.number})
	}
	yes, no := true, false
	for _, m := range members {
		if m.addr.Is4() != (family == corev1.IPv4Protocol) {
			continue
		}
		e := discoveryv1.Endpoint{
			Addresses:  []string{m.addr.String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
			NodeName:   &m.node,
		}
		if m.zone != "" {
			e.Zone = &m.zone
		}
		e.Hints = core.Hints(svc, &e)
		out.Endpoints = append(out.Endpoints, e)
	}
	return out
}

// endpoints are those of the Service's primary family (EP-01).
func endpoints(svc *corev1.Service, members []member, ports []port) *corev1.Endpoints {
	out := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{
		Name: svc.Name, Namespace: svc.Namespace,
		// Its slices are written here; the mirroring of Endpoints must not add more.
		Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"},
	}}
	var subset corev1.EndpointSubset
	for _, m := range members {
		if len(svc.Spec.IPFamilies) > 0 && m.addr.Is4() == (svc.Spec.IPFamilies[0] == corev1.IPv4Protocol) {
			subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: m.addr.String(), NodeName: &m.node})
		}
	}
	for _, p := range ports {
		subset.Ports = append(subset.Ports, corev1.EndpointPort{Name: p.name, Protocol: p.protocol, Port: p.number})
	}
	if len(subset.Addresses) > 0 {
		out.Subsets = []corev1.EndpointSubset{subset}
	}
	return out
}

func (c *controller) writeSlice(ctx context.Context, want *discoveryv1.EndpointSlice) error {
	client := c.kube.DiscoveryV1().EndpointSlices(want.Namespace)
	is, err := client.Get(ctx, want.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = client.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && (!equality.Semantic.DeepEqual(is.Endpoints, want.Endpoints) || !equality.Semantic.DeepEqual(is.Ports, want.Ports)):
		is.Endpoints, is.Ports, is.Labels = want.Endpoints, want.Ports, want.Labels
		_, err = client.Update(ctx, is, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write EndpointSlice %s/%s: %w", want.Namespace, want.Name, err)
	}
	return nil
}

func (c *controller) writeEndpoints(ctx context.Context, want *corev1.Endpoints) error {
	client := c.kube.CoreV1().Endpoints(want.Namespace)
	is, err := client.Get(ctx, want.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = client.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && !equality.Semantic.DeepEqual(is.Subsets, want.Subsets):
		is.Subsets, is.Labels = want.Subsets, want.Labels
		_, err = client.Update(ctx, is, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write Endpoints %s/%s: %w", want.Namespace, want.Name, err)
	}
	return nil
}

package system

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

const (
	// DNSService is the Service that all guests' resolvers point to, in kube-system.
	DNSService = "kube-dns"
	// APIService is the Service of the API itself, in default.
	APIService = "kubernetes"

	// dnsHost is where kube-dns lies in each service range, by convention.
	dnsHost = 10
	// apiHost is where `kubernetes` lies in the primary range.
	apiHost = 1

	// APIPort is where the API listens on a node's own address of the pod range.
	APIPort = 6443
	dnsPort = 53
)

// HostOf gives the n-th address of a range: 10.96.0.10 for 10 of 10.96.0.0/12.
func HostOf(prefix netip.Prefix, n int) netip.Addr {
	addr := prefix.Masked().Addr()
	for range n {
		addr = addr.Next()
	}
	return addr
}

// DNSAddresses are the addresses of kube-dns, one per family.
func DNSAddresses(services []netip.Prefix) []netip.Addr {
	out := make([]netip.Addr, len(services))
	for i, p := range services {
		out[i] = HostOf(p, dnsHost)
	}
	return out
}

// Bootstrap makes what is missing. It runs before any controller, so that its two
// Services come first to their addresses.
func Bootstrap(ctx context.Context, kube kubernetes.Interface, services []netip.Prefix) error {
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create namespace %s: %w", name, err)
		}
	}
	for _, svc := range []*corev1.Service{apiService(services), dnsService(services)} {
		if err := ensureService(ctx, kube, svc); err != nil {
			return err
		}
	}
	return nil
}

func apiService(services []netip.Prefix) *corev1.Service {
	single := corev1.IPFamilyPolicySingleStack
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: APIService, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP: HostOf(services[0], apiHost).String(), IPFamilyPolicy: &single,
			Ports: []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromInt32(APIPort), Protocol: corev1.ProtocolTCP}},
		},
	}
}

func dnsService(services []netip.Prefix) *corev1.Service {
	policy, near := corev1.IPFamilyPolicyPreferDualStack, corev1.ServiceTrafficDistributionPreferSameNode
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: DNSService, Namespace: metav1.NamespaceSystem,
			Labels: map[string]string{"k8s-app": "kube-dns"},
		},
		Spec: corev1.ServiceSpec{
			IPFamilyPolicy: &policy,
			// Each node has a server, which knows all that the others do.
			TrafficDistribution: &near,
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: dnsPort, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(dnsPort)},
				{Name: "dns-tcp", Port: dnsPort, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(dnsPort)},
			},
		},
	}
	for _, a := range DNSAddresses(services) {
		svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, a.String())
	}
	svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	return svc
}

// ensureService creates svc, or mends its ports where somebody changed them. Who prefers
// other servers says so.
func ensureService(ctx context.Context, kube kubernetes.Interface, svc *corev1.Service) error {
	client := kube.CoreV1().Services(svc.Namespace)
	is, err := client.Get(ctx, svc.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, svc, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // another API server was first
		}
	} else if err == nil && (!equality.Semantic.DeepEqual(is.Spec.Ports, svc.Spec.Ports) || is.Spec.TrafficDistribution == nil && svc.Spec.TrafficDistribution != nil) {
		is.Spec.Ports = svc.Spec.Ports
		if is.Spec.TrafficDistribution == nil {
			is.Spec.TrafficDistribution = svc.Spec.TrafficDistribution
		}
		_, err = client.Update(ctx, is, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("keep Service %s/%s: %w; its address must be free and in --service-cidr", svc.Namespace, svc.Name, err)
	}
	return nil
}

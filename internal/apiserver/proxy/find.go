package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Objects are the registries in which destinations are looked up. What is read is what
// the store has: a client that has just made a Service asks for it at once.
type Objects struct {
	Services, Pods rest.Getter
	Slices         rest.Lister
}

// read gets an object of the request's namespace.
func read[T runtime.Object](ctx context.Context, from rest.Getter, name string) (out T, err error) {
	obj, err := from.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return out, err
	}
	out, ok := obj.(T)
	if !ok {
		return out, apierrors.NewInternalError(fmt.Errorf("read %s: it is a %T, wanted was a %T", name, obj, out))
	}
	return out, nil
}

// service finds where "[scheme:]NAME[:PORT]" leads; the port is a ServicePort's number or
// name. Without one it is the port without a name.
func (o Objects) service(ctx context.Context, id string) (*url.URL, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", id))
	}
	svc, err := read[*corev1.Service](ctx, o.Services, name)
	if err != nil {
		return nil, err
	}
	if number, err := strconv.ParseInt(port, 10, 64); err == nil {
		i := slices.IndexFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return int64(p.Port) == number })
		if i < 0 {
			return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, name))
		}
		port = svc.Spec.Ports[i].Name
	}
	list, err := o.Slices.List(ctx, &metainternal.ListOptions{
		LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name}),
	})
	if err != nil {
		return nil, fmt.Errorf("find the endpoints of Service %s: %w", name, err)
	}
	found, ok := list.(*discoveryv1.EndpointSliceList)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("the EndpointSlices of Service %s are a %T", name, list))
	}
	at, err := Endpoint(svc, port, found.Items, func(e *discoveryv1.Endpoint) bool { return o.isPods(ctx, e) })
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: scheme, Host: at.String()}, nil
}

// isPods says whether an endpoint is a pod's, by the pod's own word. Slices are written by
// people, too; the status of a pod only by what runs it.
func (o Objects) isPods(ctx context.Context, e *discoveryv1.Endpoint) bool {
	if e.TargetRef == nil || e.TargetRef.Kind != "Pod" || len(e.Addresses) == 0 {
		return false
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil || Allowed(addr) != nil {
		return false
	}
	pod, err := read[*corev1.Pod](ctx, o.Pods, e.TargetRef.Name)
	return err == nil && pod.Namespace == e.TargetRef.Namespace && slices.Contains(addresses(pod), addr)
}

// pod finds where "[scheme:]NAME[:PORT]" leads; the port is a number or a container port's
// name. Without one it is the first container port, or the scheme's own.
func (o Objects) pod(ctx context.Context, id string) (*url.URL, error) {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(id)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", id))
	}
	pod, err := read[*corev1.Pod](ctx, o.Pods, name)
	if err != nil {
		return nil, err
	}
	number, err := podPort(pod, scheme, port)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	at := addresses(pod)
	if len(at) == 0 {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("pod %q has no address yet", name))
	}
	if err := Allowed(at[0]); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return &url.URL{Scheme: scheme, Host: netip.AddrPortFrom(at[0], number).String()}, nil
}

func podPort(pod *corev1.Pod, scheme, port string) (uint16, error) {
	if port != "" {
		if number, err := strconv.ParseUint(port, 10, 16); err == nil && number > 0 {
			return uint16(number), nil
		}
	}
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if port == "" || p.Name == port {
				return uint16(p.ContainerPort), nil
			}
		}
	}
	switch {
	case port != "":
		return 0, fmt.Errorf("pod %q has no port %q; give a number from 1 to 65535 or the name of a container port", pod.Name, port)
	case scheme == "https":
		return 443, nil
	}
	return 80, nil
}

// addresses are those in the pod's status, the primary first.
func addresses(pod *corev1.Pod) []netip.Addr {
	texts := []string{pod.Status.PodIP}
	for _, p := range pod.Status.PodIPs {
		texts = append(texts, p.IP)
	}
	var out []netip.Addr
	for _, s := range texts {
		if a, err := netip.ParseAddr(s); err == nil && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

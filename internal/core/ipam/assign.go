package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"portico.dev/portico/internal/core/service"
)

// Validate reports the addresses and ports that the Service asks for, hasn't had (old
// is nil on create) and that the pools can't give.
func (p *Pools) Validate(svc, old *corev1.Service) field.ErrorList {
	had := claimed(old)
	var errs field.ErrorList
	for _, c := range ServiceClaims(svc) {
		if had[c.Key] {
			continue // its range may have been taken away since
		}
		addr, port := parseKey(c.Key)
		switch {
		case c.Kind == Address:
			if err := p.checkAddress(addr); err != nil {
				errs = append(errs, refused(svc, c.Key, err))
			}
		case !p.ports.Contains(port):
			errs = append(errs, refused(svc, c.Key, p.ports.notInRange()))
		}
	}
	return errs
}

// Assign gives the Service the addresses and ports that its type, families and
// policies need and that it lacks; what it has stays (API-08). The Service must be
// prepared and valid. Assign changes the hints only. The caller ends the assignment
// with Commit or Release once it knows how the write went; while it doesn't know, it
// does neither.
//
// An error is a *field.Error where the client asked for something that can't be had,
// and wraps ErrFull where nothing is left; the Service is then to be thrown away.
func (p *Pools) Assign(svc, old *corev1.Service) (*Assignment, error) {
	if errs := p.Validate(svc, old); len(errs) > 0 {
		return nil, errs[0]
	}
	a := &Assignment{pools: p, svc: svc, picked: map[string]bool{}, under: map[string]string{}}
	had := claimed(old)
	// First what is there already, so that nothing of it is picked.
	for _, c := range ServiceClaims(svc) {
		marked := p.mark(c.Key)
		if had[c.Key] {
			continue
		}
		if marked {
			a.marked = append(a.marked, c.Key)
		}
		if addr, _ := parseKey(c.Key); addr.IsValid() {
			r := p.rangeOf(addr)
			if r == nil { // it went since Validate
				a.Release()
				return nil, refused(svc, c.Key, p.checkAddress(addr))
			}
			a.under[c.Key] = r.first()
		}
	}
	if err := a.assign(); err != nil {
		a.Release()
		return nil, err
	}
	has := claimed(svc)
	for key := range had {
		if !has[key] {
			a.dropped = append(a.dropped, key)
		}
	}
	return a, nil
}

// Assignment is what one Assign chose, until the write of the Service has succeeded or
// failed.
type Assignment struct {
	pools   *Pools
	svc     *corev1.Service
	picked  map[string]bool   // keys that we chose
	under   map[string]string // keys of new addresses -> their range's claim, "" for a fixed range
	marked  []string          // keys that were free before
	dropped []string          // keys that the stored Service has and this one hasn't
}

// Requires gives the keys of the claims that must live for the write to be granted:
// those of the ranges that new addresses are of.
func (a *Assignment) Requires() []string {
	keys := slices.Sorted(maps.Values(a.under))
	return slices.DeleteFunc(slices.Compact(keys), func(key string) bool { return key == "" })
}

// Picked reports whether the claim of this key was our choice, so that another would
// do as well.
func (a *Assignment) Picked(key string) bool { return a.picked[key] }

// Conflict says that the transaction found the key claimed by another object. If it
// was our choice, another takes its place in the Service, whose claims have changed
// then; else the result is the *field.Error for the client.
func (a *Assignment) Conflict(key string) error {
	if !a.picked[key] {
		return ConflictError(a.svc, key)
	}
	// It stays marked, as it isn't free, but isn't ours to release.
	delete(a.picked, key)
	delete(a.under, key)
	a.marked = slices.DeleteFunc(a.marked, func(k string) bool { return k == key })
	addr, port := parseKey(key)
	if addr.IsValid() {
		return a.replaceAddress(addr)
	}
	return a.replacePort(port)
}

// Release undoes the hints of an assignment whose write failed.
func (a *Assignment) Release() {
	for _, key := range a.marked {
		a.pools.release(key)
	}
	a.marked, a.dropped = nil, nil
}

// Commit frees what the write gave up.
func (a *Assignment) Commit() {
	for _, key := range a.dropped {
		a.pools.release(key)
	}
	a.marked, a.dropped = nil, nil
}

func (a *Assignment) assign() error {
	spec := &a.svc.Spec
	if !service.TakesClusterIPs(a.svc) {
		return nil
	}
	if !service.IsHeadless(a.svc) {
		for i := len(spec.ClusterIPs); i < len(spec.IPFamilies); i++ {
			addr, err := a.pickAddress(spec.IPFamilies[i])
			if err != nil {
				return err
			}
			spec.ClusterIPs = append(spec.ClusterIPs, addr)
		}
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	if service.NeedsNodePorts(a.svc) {
		for i := range spec.Ports {
			if err := a.assignNodePort(i); err != nil {
				return err
			}
		}
	}
	if service.NeedsHealthCheckNodePort(a.svc) && spec.HealthCheckNodePort == 0 {
		port, err := a.pickPort()
		spec.HealthCheckNodePort = port
		return err
	}
	return nil
}

func (a *Assignment) assignNodePort(i int) error {
	ports := a.svc.Spec.Ports
	if ports[i].NodePort != 0 {
		return nil
	}
	if shared := sharedNodePort(ports, i); shared != 0 {
		ports[i].NodePort = shared
		return nil
	}
	port, err := a.pickPort()
	ports[i].NodePort = port
	return err
}

// sharedNodePort finds the node port of the same port in another protocol: a DNS
// server's TCP and UDP get one number (ALLOC-02).
func sharedNodePort(ports []corev1.ServicePort, i int) int32 {
	for _, other := range ports {
		if other.NodePort == 0 || other.Port != ports[i].Port {
			continue
		}
		busy := slices.ContainsFunc(ports, func(p corev1.ServicePort) bool {
			return p.Protocol == ports[i].Protocol && p.NodePort == other.NodePort
		})
		if !busy {
			return other.NodePort
		}
	}
	return 0
}

func (a *Assignment) pickAddress(family corev1.IPFamily) (string, error) {
	addr, under, err := a.pools.nextAddress(family)
	if err != nil {
		return "", err
	}
	a.pick(addressKey(addr))
	a.under[addressKey(addr)] = under
	return addr.String(), nil
}

func (a *Assignment) pickPort() (int32, error) {
	port, err := a.pools.nextPort()
	if err != nil {
		return 0, err
	}
	a.pick(portKey(port))
	return port, nil
}

func (a *Assignment) pick(key string) {
	a.picked[key] = true
	a.marked = append(a.marked, key)
}

func (a *Assignment) replaceAddress(addr netip.Addr) error {
	spec := &a.svc.Spec
	i := slices.Index(spec.ClusterIPs, addr.String())
	next, err := a.pickAddress(spec.IPFamilies[i])
	if err != nil {
		return err
	}
	// A new slice: the old one may be shared with a version that somebody else holds.
	spec.ClusterIPs = slices.Clone(spec.ClusterIPs)
	spec.ClusterIPs[i] = next
	spec.ClusterIP = spec.ClusterIPs[0]
	return nil
}

func (a *Assignment) replacePort(port int32) error {
	spec := &a.svc.Spec
	next, err := a.pickPort()
	if err != nil {
		return err
	}
	for i := range spec.Ports { // several, when protocols share it
		if spec.Ports[i].NodePort == port {
			spec.Ports[i].NodePort = next
		}
	}
	if spec.HealthCheckNodePort == port {
		spec.HealthCheckNodePort = next
	}
	return nil
}

// ConflictError is what a client gets whose Service asks for a key that another object
// has claimed.
func ConflictError(svc *corev1.Service, key string) *field.Error {
	if strings.HasPrefix(key, string(Balancer)+"/") {
		return balancerConflict(svc, key)
	}
	if addr, _ := parseKey(key); addr.IsValid() {
		return refused(svc, key, ErrAddressAllocated)
	}
	return refused(svc, key, ErrPortAllocated)
}

// refused finds the field that asks for the key, with the paths of Kubernetes.
func refused(svc *corev1.Service, key string, reason error) *field.Error {
	spec := field.NewPath("spec")
	addr, port := parseKey(key)
	if addr.IsValid() {
		return field.Invalid(spec.Child("clusterIPs"), svc.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %v: %v", addr, reason))
	}
	for i, p := range svc.Spec.Ports {
		if p.NodePort == port {
			return field.Invalid(spec.Child("ports").Index(i).Child("nodePort"), port, reason.Error())
		}
	}
	return field.Invalid(spec.Child("healthCheckNodePort"), port, reason.Error())
}

// claimed gives the keys of the Service's claims; none for nil.
func claimed(svc *corev1.Service) map[string]bool {
	keys := map[string]bool{}
	if svc != nil {
		for _, c := range ServiceClaims(svc) {
			keys[c.Key] = true
		}
	}
	return keys
}

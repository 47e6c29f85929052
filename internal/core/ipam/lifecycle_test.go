package ipam

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/service"
)

// etcd stands for the storage: objects and claims, which change together or not at
// all.
type etcd struct {
	objects map[string]*corev1.Service
	claims  map[string]types.UID
}

// write does what the storage's transaction does; the result is the key of a claim
// that another object holds, "" when all went well.
func (e *etcd) write(svc, old *corev1.Service) string {
	for _, c := range ServiceClaims(svc) {
		if owner, ok := e.claims[c.Key]; ok && owner != c.Owner {
			return c.Key
		}
	}
	e.drop(old)
	for _, c := range ServiceClaims(svc) {
		e.claims[c.Key] = c.Owner
	}
	e.objects[svc.Name] = svc
	return ""
}

func (e *etcd) drop(svc *corev1.Service) {
	if svc != nil {
		for _, c := range ServiceClaims(svc) {
			delete(e.claims, c.Key)
		}
		delete(e.objects, svc.Name)
	}
}

// server is one API server with hints of its own.
type server struct {
	pools   *Pools
	cluster service.Cluster
}

// life is a random sequence of requests by two servers on one storage, of which the
// second never hears of what the first did but by conflicts.
type life struct {
	*testing.T
	rnd     *rand.Rand
	etcd    etcd
	servers []*server
	uid     int
	refused map[string]int
	done    map[string]int
}

func newLife(t *testing.T, seed uint64, ports string, prefixes ...string) *life {
	l := &life{
		T: t, rnd: rand.New(rand.NewPCG(seed, 7)),
		etcd:    etcd{map[string]*corev1.Service{}, map[string]types.UID{}},
		refused: map[string]int{}, done: map[string]int{},
	}
	for range 2 {
		var ranges []*Range
		for _, p := range prefixes {
			r, err := NewRange(netip.MustParsePrefix(p), l.rnd.Uint64N)
			if err != nil {
				t.Fatal(err)
			}
			ranges = append(ranges, r)
		}
		first, last, _ := ParsePortRange(ports)
		portRange, err := NewPortRange(first, last, l.rnd.Uint64N)
		if err != nil {
			t.Fatal(err)
		}
		pools, err := NewPools(portRange, ranges...)
		if err != nil {
			t.Fatal(err)
		}
		l.servers = append(l.servers, &server{pools, service.Cluster{Families: pools.Families()}})
	}
	return l
}

// ALLOC-03, ALLOC-04, API-06, API-08: after each step of a random life the claims in
// the storage are those of the living Services, and a Service that is written back
// unchanged changes nothing.
func TestLifecycle(t *testing.T) {
	for seed := range uint64(40) {
		prefixes := [][]string{
			{"10.96.0.0/24", "fd00:10:96::/112"},
			{"10.96.0.0/29", "fd00:10:96::/125"}, // full most of the time
			{"fd00:10:96::/120", "10.96.0.0/28"},
			{"10.96.0.0/28"},
		}[seed%4]
		t.Run(fmt.Sprintf("seed %d %v", seed, prefixes), func(t *testing.T) {
			l := newLife(t, seed, "30000-30019", prefixes...)
			for range 400 {
				l.step()
				l.checkClaims()
			}
			t.Logf("done %v, refused %v", l.done, l.refused)
			if l.done["create"] < 20 || l.done["update"] < 20 || l.done["delete"] < 10 {
				t.Errorf("the test tests little: done %v, refused %v", l.done, l.refused)
			}
		})
	}
}

func (l *life) step() {
	name := fmt.Sprintf("svc-%d", l.rnd.IntN(12))
	s := l.servers[l.rnd.IntN(len(l.servers))]
	old := l.etcd.objects[name]
	switch {
	case old == nil:
		l.uid++
		svc := l.randomService(name)
		svc.UID = types.UID(fmt.Sprint("uid-", l.uid))
		l.write(s, "create", svc, nil)
	case l.rnd.IntN(4) == 0:
		l.etcd.drop(old)
		s.pools.Free(ServiceClaims(old)...)
		l.done["delete"]++
	case l.rnd.IntN(4) == 0:
		l.checkUnchanged(s, old)
	case l.rnd.IntN(2) == 0: // replaced by a manifest
		svc := l.randomService(name)
		svc.UID, svc.ResourceVersion = old.UID, old.ResourceVersion
		l.write(s, "update", svc, old)
	default: // patched
		svc := old.DeepCopy()
		l.mutate(svc)
		l.write(s, "update", svc, old)
	}
}

// write is the path of a request: prepare, validate, assign, transaction.
func (l *life) write(s *server, verb string, svc, old *corev1.Service) {
	service.SetDefaults(svc)
	if old == nil {
		s.cluster.PrepareForCreate(svc)
		if errs := append(s.cluster.Validate(svc), s.pools.Validate(svc, nil)...); len(errs) > 0 {
			l.refused["invalid"]++
			return
		}
	} else {
		s.cluster.PrepareForUpdate(svc, old)
		if errs := append(s.cluster.ValidateUpdate(svc, old), s.pools.Validate(svc, old)...); len(errs) > 0 {
			l.refused["invalid"]++
			return
		}
	}
	a, err := s.pools.Assign(svc, old)
	if err != nil { // full by its hints: ask the storage
		s.pools.Replace(maps.Keys(l.etcd.claims))
		l.refused["full"]++
		return
	}
	if l.rnd.IntN(10) == 0 { // the write fails for another reason
		a.Release()
		l.refused["failed"]++
		return
	}
	for key := l.etcd.write(svc, old); key != ""; key = l.etcd.write(svc, old) {
		if err := a.Conflict(key); err != nil {
			a.Release()
			l.refused["conflict"]++
			return
		}
	}
	a.Commit()
	svc.ResourceVersion = "1"
	l.done[verb]++
	l.checkComplete(svc)
}

func (l *life) checkClaims() {
	l.Helper()
	want := map[string]types.UID{}
	for _, svc := range l.etcd.objects {
		for _, c := range ServiceClaims(svc) {
			if owner, ok := want[c.Key]; ok {
				l.Fatalf("%s belongs to %s and %s", c.Key, owner, c.Owner)
			}
			want[c.Key] = c.Owner
		}
	}
	if !maps.Equal(l.etcd.claims, want) {
		l.Fatalf("claims %v, want %v", l.etcd.claims, want)
	}
}

// checkComplete: a stored Service has what its type needs and nothing else.
func (l *life) checkComplete(svc *corev1.Service) {
	l.Helper()
	spec := &svc.Spec
	switch {
	case !service.TakesClusterIPs(svc):
		if spec.ClusterIP != "" || len(spec.ClusterIPs)+len(spec.IPFamilies) > 0 || spec.IPFamilyPolicy != nil {
			l.Fatalf("an ExternalName Service has %+v", spec)
		}
		return
	case !service.IsHeadless(svc) && len(spec.ClusterIPs) != len(spec.IPFamilies):
		l.Fatalf("%v of families %v", spec.ClusterIPs, spec.IPFamilies)
	}
	for i, ip := range spec.ClusterIPs {
		if ip != corev1.ClusterIPNone && netip.MustParseAddr(ip).Is4() != (spec.IPFamilies[i] == corev1.IPv4Protocol) {
			l.Fatalf("%v of families %v", spec.ClusterIPs, spec.IPFamilies)
		}
	}
	for _, p := range spec.Ports {
		if p.NodePort == 0 && service.NeedsNodePorts(svc) || p.NodePort != 0 && !service.TakesNodePorts(svc) {
			l.Fatalf("type %s with node port %d", spec.Type, p.NodePort)
		}
	}
	if service.NeedsHealthCheckNodePort(svc) != (spec.HealthCheckNodePort != 0) {
		l.Fatalf("type %s, policy %s, health check node port %d", spec.Type, spec.ExternalTrafficPolicy, spec.HealthCheckNodePort)
	}
}

func (l *life) checkUnchanged(s *server, old *corev1.Service) {
	l.Helper()
	svc := old.DeepCopy()
	service.SetDefaults(svc)
	s.cluster.PrepareForUpdate(svc, old)
	errs := s.cluster.ValidateUpdate(svc, old)
	a, err := s.pools.Assign(svc, old)
	if err != nil || len(errs) > 0 || !equality.Semantic.DeepEqual(svc, old) {
		l.Fatalf("written back: %v %v\nwas %+v\nis  %+v", errs, err, old.Spec, svc.Spec)
	}
	a.Commit()
	l.done["unchanged"]++
}

func (l *life) randomService(name string) *corev1.Service {
	svc := &corev1.Service{}
	svc.Name, svc.Namespace = name, "default"
	for range 1 + l.rnd.IntN(3) {
		l.mutate(svc)
	}
	if len(svc.Spec.Ports) == 0 {
		svc.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	}
	return svc
}

// mutate changes one thing as a client might, not always a thing that goes together
// with the rest.
func (l *life) mutate(svc *corev1.Service) {
	spec := &svc.Spec
	switch l.rnd.IntN(9) {
	case 0, 1:
		types := []corev1.ServiceType{"ClusterIP", "NodePort", "LoadBalancer", "ExternalName"}
		spec.Type = types[l.rnd.IntN(len(types))]
		if spec.Type == corev1.ServiceTypeExternalName {
			spec.ExternalName = "example.org"
		}
	case 2, 3:
		policies := []corev1.IPFamilyPolicy{"SingleStack", "PreferDualStack", "RequireDualStack"}
		spec.IPFamilyPolicy = new(policies[l.rnd.IntN(len(policies))])
	case 4:
		spec.Ports = []corev1.ServicePort{{Name: "a", Port: 53}, {Name: "b", Port: 53, Protocol: "UDP"}, {Name: "c", Port: 80}}[:1+l.rnd.IntN(3)]
		if l.rnd.IntN(2) == 0 {
			spec.Ports[0].NodePort = 29999 + l.rnd.Int32N(20)
		}
	case 5:
		spec.ClusterIP = []string{"None", "10.96.0.3", "10.96.0.4", "fd00:10:96::3", "fd00:10:96::4", "1.1.1.1"}[l.rnd.IntN(6)]
		spec.ClusterIPs = nil
	case 6:
		spec.ExternalTrafficPolicy = []corev1.ServiceExternalTrafficPolicy{"", "Cluster", "Local"}[l.rnd.IntN(3)]
	case 7:
		spec.Selector = []map[string]string{nil, {"a": "b"}}[l.rnd.IntN(2)]
	case 8:
		spec.IPFamilies = [][]corev1.IPFamily{{"IPv4"}, {"IPv6"}, {"IPv6", "IPv4"}, nil}[l.rnd.IntN(4)]
		if l.rnd.IntN(2) == 0 {
			spec.AllocateLoadBalancerNodePorts = new(l.rnd.IntN(2) == 0)
		}
	}
	spec.Ports = slices.Clone(spec.Ports)
}

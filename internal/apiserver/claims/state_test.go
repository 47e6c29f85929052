package claims_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"portico.dev/portico/internal/apiserver/claims"
	"portico.dev/portico/internal/core/ipam"
)

// state is what a store holds: the claims, and the objects that may have some.
type state struct {
	claims    map[string]string // key -> owner's UID
	services  map[string]*corev1.Service
	addresses map[string]*networkingv1.IPAddress
	ranges    map[string]*networkingv1.ServiceCIDR
}

// read takes it all in one transaction, past every cache.
func read(t testing.TB, store *kubernetes.Client) state {
	t.Helper()
	folders := []string{claims.Root, "/registry/services/specs/", "/registry/ipaddresses/", "/registry/servicecidrs/"}
	reads := make([]clientv3.Op, len(folders))
	for i, folder := range folders {
		reads[i] = clientv3.OpGet(folder, clientv3.WithPrefix())
	}
	resp, err := store.KV.Txn(context.Background()).Then(reads...).Commit()
	if err != nil {
		t.Fatal(err)
	}
	s := state{
		claims: map[string]string{}, services: map[string]*corev1.Service{},
		addresses: map[string]*networkingv1.IPAddress{}, ranges: map[string]*networkingv1.ServiceCIDR{},
	}
	for i, folder := range folders {
		for _, kv := range resp.Responses[i].GetResponseRange().Kvs {
			name := strings.TrimPrefix(string(kv.Key), folder)
			if folder == claims.Root {
				s.claims[name] = string(kv.Value)
				continue
			}
			obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(kv.Value, nil, nil)
			if err != nil {
				t.Fatalf("%s: %v", kv.Key, err)
			}
			switch obj := obj.(type) {
			case *corev1.Service:
				s.services[name] = obj
			case *networkingv1.IPAddress:
				s.addresses[name] = obj
			case *networkingv1.ServiceCIDR:
				s.ranges[name] = obj
			default:
				t.Fatalf("%s is a %T", kv.Key, obj)
			}
		}
	}
	return s
}

// check proves the invariants: the claims are those of the stored objects, no more and
// no less, and every cluster IP is of a range that there is.
func (s state) check(t testing.TB) {
	t.Helper()
	want := map[string]string{}
	claim := func(list []ipam.Claim) {
		for _, c := range list {
			if other, ok := want[c.Key]; ok {
				t.Errorf("%s is used by %s and %s", c.Key, other, c.Owner)
			}
			want[c.Key] = string(c.Owner)
		}
	}
	var ranges []netip.Prefix
	for _, c := range s.ranges {
		claim(ipam.ServiceCIDRClaims(c))
		ranges = append(ranges, ipam.Prefixes(c)...)
	}
	for _, a := range s.addresses {
		claim(ipam.IPAddressClaims(a))
	}
	for name, svc := range s.services {
		list := ipam.AllServiceClaims(svc)
		claim(list)
		for _, c := range list {
			if addr, ok := c.Addr(); ok && !slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) }) {
				t.Errorf("Service %s has %s, which is of no range: %v", name, addr, ranges)
			}
		}
	}
	if !maps.Equal(s.claims, want) {
		t.Errorf("claims of %d Services differ:\n stored %v\n wanted %v", len(s.services), sorted(s.claims), sorted(want))
	}
}

// mirrored says which cluster IP has no IPAddress of its own, or which has one that
// isn't a Service's any more.
func mirrored(s state) error {
	want := map[string]*networkingv1.IPAddress{}
	for _, svc := range s.services {
		for _, c := range ipam.ServiceClaims(svc) {
			if addr, ok := c.Addr(); ok {
				want[addr.String()] = ipam.Mirror(svc, addr)
			}
		}
	}
	for name, w := range want {
		if is := s.addresses[name]; is == nil || !ipam.SameMirror(is, w) {
			return fmt.Errorf("IPAddress %s is %+v, want %+v", name, is, w)
		}
	}
	for name, is := range s.addresses {
		if ipam.IsMirror(is) && want[name] == nil {
			return fmt.Errorf("IPAddress %s is nobody's", name)
		}
	}
	return nil
}

func sorted(m map[string]string) []string {
	var out []string
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

func (r *rig) stored(t testing.TB) map[string]string {
	t.Helper()
	return read(t, r.direct).claims
}

func (r *rig) check(t testing.TB) {
	t.Helper()
	read(t, r.direct).check(t)
}

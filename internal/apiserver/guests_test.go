package apiserver_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/apiserver/claims"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	vmsPath  = "/apis/kubevirt.io/v1/namespaces/default/virtualmachines"
	vmisPath = "/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances"
)

// guest is the least that boots.
const guest = `{"domain":{"devices":{},"resources":{"requests":{"memory":"64Mi"}},
	"firmware":{"kernelBoot":{"container":{"image":"demo","kernelPath":"/vmlinuz"}}}}}`

// lone is an instance without a machine.
const lone = `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineInstance","metadata":{"name":"lone"},"spec":` + guest + `}`

// vm is a VirtualMachine; the annotations are JSON.
func vm(name, annotations, spec string) string {
	if annotations == "" {
		annotations = "{}"
	}
	return fmt.Sprintf(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":%q,"annotations":%s},
		"spec":{%s,"template":{"metadata":{"labels":{"special":"key"}},"spec":%s}}}`, name, annotations, spec, guest)
}

const (
	halted = `"runStrategy":"Halted"`
	manual = `"runStrategy":"Manual"`
)

func annotation(t *testing.T, a answer, name string) string {
	t.Helper()
	m, _ := a.field(t, "metadata.annotations").(map[string]any)
	s, _ := m[name].(string)
	return s
}

func claimsOf(t testing.TB, s *apitest.Server) map[string]string {
	t.Helper()
	c, err := s.Store.Client()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.KV.Get(context.Background(), claims.Root, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, kv := range resp.Kvs {
		if key := strings.TrimPrefix(string(kv.Key), claims.Root); !strings.HasPrefix(key, "range/") {
			out[key] = string(kv.Value)
		}
	}
	return out
}

// A guest's addresses and MAC are its VirtualMachine's: claimed when it is created,
// free when it is gone (ALLOC-03, ALLOC-04).
func TestGuestsClaims(t *testing.T) {
	t.Parallel()
	s := start(t)
	one := ask(t, s, "POST", vmsPath, vm("one", "", halted)).want(t, 201)
	addrs, mac := annotation(t, one, "portico.dev/addresses"), annotation(t, one, "portico.dev/mac-address")
	v4, v6, _ := strings.Cut(addrs, ",")
	if !strings.HasPrefix(v4, "10.245.") || !strings.HasPrefix(v6, "fd00:10:245::") || !strings.HasPrefix(mac, "02:70:0a:f5:") {
		t.Errorf("got %q and %q", addrs, mac)
	}
	uid := fmt.Sprint(one.field(t, "metadata.uid"))
	for _, key := range []string{"ip/" + v4, "ip/" + v6, "mac/" + mac} {
		if got := claimsOf(t, s)[key]; got != uid {
			t.Errorf("claim %s is %q's, want %s", key, got, uid)
		}
	}
	t.Run("chosen and taken", func(t *testing.T) {
		ask(t, s, "POST", vmsPath, vm("two", fmt.Sprintf(`{"portico.dev/addresses":%q}`, v4), halted)).
			want(t, 422, "metadata.annotations[portico.dev/addresses]", v4+" is another guest's")
		ask(t, s, "POST", vmsPath, vm("two", fmt.Sprintf(`{"portico.dev/mac-address":%q}`, mac), halted)).
			want(t, 422, "metadata.annotations[portico.dev/mac-address]", mac+" is another guest's")
		ask(t, s, "POST", vmsPath, vm("two", `{"portico.dev/addresses":"192.0.2.1"}`, halted)).
			want(t, 422, "metadata.annotations[portico.dev/addresses]", "10.245.0.0/16")
		ask(t, s, "GET", vmsPath+"/two", "").want(t, 404)
	})
	t.Run("an instance of the machine claims nothing", func(t *testing.T) {
		before := len(claimsOf(t, s))
		ask(t, s, "POST", vmisPath, fmt.Sprintf(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineInstance","metadata":{"name":"one",
			"annotations":{"portico.dev/addresses":%q,"portico.dev/mac-address":%q},
			"ownerReferences":[{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","name":"one","uid":%q,"controller":true}]},
			"spec":%s}`, addrs, mac, uid, guest)).want(t, 201)
		ask(t, s, "DELETE", vmisPath+"/one", "").want(t, 200)
		if after := len(claimsOf(t, s)); after != before {
			t.Errorf("%d claims became %d", before, after)
		}
	})
	t.Run("an update keeps them", func(t *testing.T) {
		again := ask(t, s, "PUT", vmsPath+"/one", vm("one", "", manual)).want(t, 200)
		if got := annotation(t, again, "portico.dev/addresses"); got != addrs {
			t.Errorf("got %q, want %q", got, addrs)
		}
	})
	t.Run("deleted, they can be had again", func(t *testing.T) {
		ask(t, s, "DELETE", vmsPath+"/one", "").want(t, 200)
		if left := claimsOf(t, s); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
		ask(t, s, "POST", vmsPath, vm("heir", fmt.Sprintf(`{"portico.dev/addresses":%q}`, addrs), halted)).want(t, 201)
	})
	t.Run("a derived MAC that is taken costs another pick", func(t *testing.T) {
		first := ask(t, s, "POST", vmsPath, vm("named", "", halted)).want(t, 201)
		ask(t, s, "DELETE", vmsPath+"/named", "").want(t, 200) // the name leads to the same address again
		mac := annotation(t, first, "portico.dev/mac-address")
		ask(t, s, "POST", vmsPath, vm("thief", fmt.Sprintf(`{"portico.dev/mac-address":%q}`, mac), halted)).want(t, 201)
		again := ask(t, s, "POST", vmsPath, vm("named", "", halted)).want(t, 201)
		if got := annotation(t, again, "portico.dev/mac-address"); got == mac {
			t.Errorf("two guests have %s", mac)
		}
	})
	t.Run("an instance without a machine has its own", func(t *testing.T) {
		ask(t, s, "POST", vmisPath, lone).want(t, 201, "portico.dev/addresses")
	})
}

// Two guests never share an address, also where there are few (ALLOC-04, ALLOC-06).
func TestGuestsNeverShare(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *apiserver.Config) {
		c.GuestCIDRs = []netip.Prefix{netip.MustParsePrefix("10.245.0.0/28"), netip.MustParsePrefix("fd00:10:245::/64")}
	})
	var mu sync.Mutex // guards the following
	seen, full := map[string]string{}, 0
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			a := ask(t, s, "POST", vmsPath, vm(fmt.Sprintf("vm-%d", i), "", halted))
			mu.Lock()
			defer mu.Unlock()
			if a.code != 201 {
				a.want(t, 500, "range is full: 10.245.0.0/28")
				full++
				return
			}
			for _, name := range []string{"portico.dev/addresses", "portico.dev/mac-address"} {
				value := annotation(t, a, name)
				if other := seen[value]; other != "" {
					t.Errorf("vm-%d and %s share %s", i, other, value)
				}
				seen[value] = fmt.Sprintf("vm-%d", i)
			}
		})
	}
	wg.Wait()
	if full != 24-13 { // .2 to .14
		t.Errorf("%d found the range full, want 11", full)
	}
	// The range may be changed while machines live: theirs stay.
	for value, name := range seen {
		if strings.HasPrefix(value, "10.") {
			ask(t, s, "PUT", vmsPath+"/"+name, vm(name, "", manual)).want(t, 200)
			break
		}
	}
}

// A machine whose addresses are of an older range can still be changed and deleted.
func TestGuestsOfAnOlderRange(t *testing.T) {
	t.Parallel()
	old := start(t)
	ask(t, old, "POST", vmsPath, vm("old", `{"portico.dev/addresses":"10.245.7.7"}`, halted)).want(t, 201)
	s := apitest.StartOn(t, old, func(c *apiserver.Config) {
		c.GuestCIDRs = []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16")}
	})
	ask(t, s, "PUT", vmsPath+"/old", vm("old", "", manual)).want(t, 200, "10.245.7.7")
	ask(t, s, "DELETE", vmsPath+"/old", "").want(t, 200)
	if left := claimsOf(t, s); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

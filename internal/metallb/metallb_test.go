package metallb_test

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"portico.dev/portico/internal/apiserver/apitest"
	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/metallb"
)

var discard = slog.New(slog.DiscardHandler)

func client(t *testing.T, s *apitest.Server) dynamic.Interface {
	t.Helper()
	c, err := dynamic.NewForConfig(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// install waits until every kind is served.
func install(t *testing.T, c dynamic.Interface) {
	t.Helper()
	if err := metallb.Install(t.Context(), c, discard); err != nil {
		t.Fatal(err)
	}
	for _, resource := range []schema.GroupVersionResource{
		metallb.Pools, metallb.L2Advertisements, metallb.BGPAdvertisements, metallb.BGPPeers, metallb.BFDProfiles,
		metallb.Communities, metallb.ServiceL2Statuses, metallb.ServiceBGPStatuses, metallb.ConfigurationStates,
	} {
		apitest.Eventually(t, resource.Resource+" is served", func() error {
			_, err := c.Resource(resource).List(t.Context(), metav1.ListOptions{})
			return err
		})
	}
}

var resources = map[string]schema.GroupVersionResource{
	"IPAddressPool": metallb.Pools, "L2Advertisement": metallb.L2Advertisements, "BGPAdvertisement": metallb.BGPAdvertisements,
	"BGPPeer": metallb.BGPPeers, "BFDProfile": metallb.BFDProfiles, "Community": metallb.Communities,
}

// create makes an object of metallb-system from its kind, name and spec.
func create(t *testing.T, c dynamic.Interface, kind, name, spec string) error {
	t.Helper()
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte("spec: "+spec), &object.Object); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	object.SetAPIVersion(resources[kind].GroupVersion().String())
	object.SetKind(kind)
	object.SetName(name)
	_, err := c.Resource(resources[kind]).Namespace(core.Namespace).Create(t.Context(), object, metav1.CreateOptions{FieldValidation: "Strict"})
	return err
}

// One server is enough for what doesn't depend on its beginning.
func TestDefinitions(t *testing.T) {
	t.Parallel()
	c := client(t, apitest.Start(t))
	install(t, c)
	t.Run("refuse", func(t *testing.T) { testRefusals(t, c) })
	t.Run("statuses", func(t *testing.T) { testApply(t, c) })
	t.Run("of others", func(t *testing.T) { testForeign(t, c) })
}

// LB-01: what makes no sense is refused when it is written, with the field and the remedy.
func testRefusals(t *testing.T, c dynamic.Interface) {
	n := 0
	for _, tt := range []struct{ kind, spec, want string }{
		{"IPAddressPool", `{addresses: [192.0.2.0/28, 192.0.2.32-192.0.2.40, '192.0.2.50 - 192.0.2.60', '2001:db8::/120']}`, ""},
		{"IPAddressPool", `{addresses: [192.0.2.7]}`, "192.0.2.1/32"},
		{"IPAddressPool", `{addresses: [192.0.2.7-]}`, "a range like"},
		{"IPAddressPool", `{addresses: [lan]}`, "spec.addresses[0]"},
		{"IPAddressPool", `{}`, "spec.addresses"},
		{"BGPAdvertisement", `{aggregationLength: 32, serviceSelectors: [{matchLabels: {a: b}}]}`, ""},
		{"BGPAdvertisement", `{aggregationLength: 24, serviceSelectors: [{matchLabels: {a: b}}]}`, "serviceSelectors can't be combined"},
		{"BGPAdvertisement", `{aggregationLength: 33}`, "aggregationLength"},
		{"BGPAdvertisement", `{localPref: 4294967295, communities: ['65535:65282']}`, ""},
		{"BGPPeer", `{myASN: 64500, peerASN: 64501, peerAddress: 10.0.0.1, holdTime: 9s, keepaliveTime: 3s, connectTime: 5s, routerID: 10.10.10.10}`, ""},
		{"BGPPeer", `{myASN: 64500, peerAddress: 10.0.0.1}`, "either peerASN or dynamicASN"},
		{"BGPPeer", `{myASN: 64500, peerASN: 64501, dynamicASN: external, peerAddress: 10.0.0.1}`, "either peerASN or dynamicASN"},
		{"BGPPeer", `{myASN: 64500, dynamicASN: external}`, "either peerAddress or interface"},
		{"BGPPeer", `{myASN: 64500, peerASN: 64500, peerAddress: 10.0.0.1, ebgpMultiHop: true}`, "ebgpMultiHop is for"},
		{"BGPPeer", `{myASN: 64500, peerASN: 64501, peerAddress: router}`, "not an IP address"},
		{"BGPPeer", `{myASN: 64500, peerASN: 64501, peerAddress: 10.0.0.1, holdTime: 2s}`, "at least 3s"},
		{"BGPPeer", `{myASN: 64500, peerASN: 64501, peerAddress: 10.0.0.1, holdTime: soon}`, "holdTime"},
		{"BGPPeer", `{myASN: 64500, peerASN: 64501, peerAddress: 10.0.0.1, keepaliveTime: 90s}`, "keepaliveTime must be below"},
		{"BGPPeer", `{myASN: 64500, peerASN: 64501, peerAddress: 10.0.0.1, connectTime: 1500ms}`, "whole number"},
		{"BGPPeer", `{myASN: 64500, peerASN: 64501, peerAddress: 10.0.0.1, routerID: '::1'}`, "IPv4"},
		{"BGPPeer", `{myASN: 64500, peerASN: 64501, peerAddress: 10.0.0.1, password: a, passwordSecret: {name: b}}`, "either password or"},
		{"BFDProfile", `{receiveInterval: 380, detectMultiplier: 3}`, ""},
		{"BFDProfile", `{receiveInterval: 5}`, "receiveInterval"},
		{"Community", `{communities: [{name: vpn, value: '65535:65281'}]}`, ""},
		{"L2Advertisement", `{ipAddressPools: [a], interfaces: [eth0], nodeSelectors: [{matchLabels: {kubernetes.io/hostname: a}}]}`, ""},
		{"L2Advertisement", `{interface: eth0}`, "interface"},
	} {
		n++
		err := create(t, c, tt.kind, fmt.Sprint("n", n), tt.spec)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s %s: %v, want %q", tt.kind, tt.spec, err, tt.want)
		}
	}
	patch := []byte(`{"spec":{"enableGracefulRestart":true}}`)
	if err := create(t, c, "BGPPeer", "restarts", `{myASN: 1, peerASN: 2, peerAddress: 10.0.0.1, enableGracefulRestart: false}`); err != nil {
		t.Fatal(err)
	}
	_, err := c.Resource(metallb.BGPPeers).Namespace(core.Namespace).Patch(t.Context(), "restarts", "application/merge-patch+json", patch, metav1.PatchOptions{})
	if err == nil || !strings.Contains(err.Error(), "can't be changed") {
		t.Errorf("graceful restart changed: %v", err)
	}
}

// Definitions of ours are mended, those of somebody else are left alone.
func testForeign(t *testing.T, c dynamic.Interface) {
	crds := c.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	const mark = "app.kubernetes.io/managed-by"
	change := func(name string, mend func(*unstructured.Unstructured)) {
		t.Helper()
		apitest.Eventually(t, "change "+name, func() error {
			crd, err := crds.Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			crd.SetAnnotations(map[string]string{"portico.dev/definition": "earlier"})
			mend(crd)
			_, err = crds.Update(t.Context(), crd, metav1.UpdateOptions{})
			return err
		})
	}
	change("communities.metallb.io", func(*unstructured.Unstructured) {})
	change("bfdprofiles.metallb.io", func(crd *unstructured.Unstructured) { crd.SetLabels(map[string]string{mark: "Helm"}) })
	if err := metallb.Install(t.Context(), c, discard); err != nil {
		t.Fatal(err)
	}
	for name, ours := range map[string]bool{"communities.metallb.io": true, "bfdprofiles.metallb.io": false} {
		crd, err := crds.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if mended := crd.GetAnnotations()["portico.dev/definition"] != "earlier"; mended != ours {
			t.Errorf("%s mended: %v", name, mended)
		}
	}
}

// Follow begins before the kinds are served, sees them come, and every change.
func TestFollow(t *testing.T) {
	t.Parallel()
	c := client(t, apitest.Start(t))
	seen := make(chan *core.Config, 100)
	done := make(chan error, 1)
	go func() { done <- metallb.Follow(t.Context(), c, discard, func(config *core.Config) { seen <- config }) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if first := <-seen; len(first.Pools)+len(first.BGPPeers) != 0 {
		t.Errorf("first: %+v", first)
	}
	until := func(what string, ok func(*core.Config) bool) {
		t.Helper()
		for config := range seen {
			if ok(config) {
				return
			}
			t.Logf("%s: not yet: %d pools", what, len(config.Pools))
		}
	}
	install(t, c)
	if err := create(t, c, "IPAddressPool", "lan", `{addresses: [192.0.2.0/28]}`); err != nil {
		t.Fatal(err)
	}
	if err := create(t, c, "BGPPeer", "tor", `{myASN: 4200000000, peerASN: 2, peerAddress: 10.0.0.1, holdTime: 1m30s, passwordSecret: {name: key}}`); err != nil {
		t.Fatal(err)
	}
	until("both", func(config *core.Config) bool {
		return len(config.Pools) == 1 && slices.Equal(config.Pools[0].Spec.Addresses, []string{"192.0.2.0/28"}) && *config.Pools[0].Spec.AutoAssign &&
			len(config.BGPPeers) == 1 && config.BGPPeers[0].Spec.HoldTime.Seconds() == 90 && config.BGPPeers[0].Spec.MyASN == 4200000000 &&
			config.BGPPeers[0].Spec.Port == 179 && config.BGPPeers[0].Spec.PasswordSecret.Name == "key"
	})
	if err := c.Resource(metallb.Pools).Namespace(core.Namespace).Delete(t.Context(), "lan", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	until("gone", func(config *core.Config) bool { return len(config.Pools) == 0 })
}

// LB-07: a status is created, changed where the definition lets it, and costs no write
// where it says the same already.
func testApply(t *testing.T, c dynamic.Interface) {
	status := func(node, link string) *core.ServiceL2Status {
		return &core.ServiceL2Status{
			ObjectMeta: metav1.ObjectMeta{Name: "l2-web", Labels: map[string]string{"metallb.io/node": node}},
			Status:     core.ServiceL2StatusStatus{Node: node, ServiceName: "web", ServiceNamespace: "default", Interfaces: []core.InterfaceInfo{{Name: link}}},
		}
	}
	version := func() string {
		is, err := c.Resource(metallb.ServiceL2Statuses).Namespace(core.Namespace).Get(t.Context(), "l2-web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := unstructured.NestedString(is.Object, "status", "serviceName")
		if name != "web" {
			t.Errorf("status: %v", is.Object["status"])
		}
		return is.GetResourceVersion()
	}
	apply := func(s *core.ServiceL2Status) error { return metallb.Apply(t.Context(), c, s) }
	if err := apply(status("a", "eth0")); err != nil {
		t.Fatal(err)
	}
	first := version()
	if err := apply(status("a", "eth0")); err != nil || version() != first {
		t.Errorf("again: %v", err)
	}
	if err := apply(status("a", "eth1")); err != nil || version() == first {
		t.Errorf("changed: %v", err)
	}
	if err := apply(status("b", "eth1")); err == nil || !strings.Contains(err.Error(), "can't be changed") {
		t.Errorf("another node: %v", err)
	}
	for range 2 {
		if err := metallb.Delete(t.Context(), c, metallb.ServiceL2Statuses, "l2-web"); err != nil {
			t.Error(err)
		}
	}
	if err := metallb.Apply(t.Context(), c, &core.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "absent"}}); err != nil {
		t.Errorf("a pool that is gone: %v", err)
	}
}

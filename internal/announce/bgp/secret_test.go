package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/announcing"
	kinds "portico.dev/portico/internal/core/metallb"
)

// LB-04: passwords are read as MetalLB does.
func TestPasswords(t *testing.T) {
	t.Parallel()
	kube := apitest.Start(t).Kube
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: kinds.Namespace}}
	if _, err := kube.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*corev1.Secret{
		{ObjectMeta: metav1.ObjectMeta{Name: "good"}, Type: corev1.SecretTypeBasicAuth, StringData: map[string]string{"username": "", "password": "p"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "opaque"}, StringData: map[string]string{"password": "p"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "empty"}, Type: corev1.SecretTypeBasicAuth, StringData: map[string]string{"username": "u"}},
	} {
		if _, err := kube.CoreV1().Secrets(kinds.Namespace).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"good": "p <nil>", "opaque": " its type is Opaque; make it kubernetes.io/basic-auth", "empty": " it has no password", "none": ` secrets "none" not found`} {
		password, err := Passwords(kube)(t.Context(), kinds.SecretReference{Namespace: kinds.Namespace, Name: name})
		if got := fmt.Sprint(password, " ", err); got != want {
			t.Errorf("Secret %s gave %q, not %q", name, got, want)
		}
	}
}

// LB-07: what the objects in the API and people are told follows the plan; a Secret that
// can't be read is a fault of the BGPPeer, and a node that leaves announces to nobody.
func TestWhatIsTold(t *testing.T) {
	t.Parallel()
	w := base(kinds.BGPPeerSpec{MyASN: 64512, ASN: 64513, Address: "192.0.2.254", PasswordSecret: kinds.SecretReference{Name: "key"}},
		at("web", "198.51.100.1"), at("api", "198.51.100.2"))
	w.Config.BGPAdvertisements[0].Spec.IPAddressPools = []string{"lan", "wan"}
	told := make(chan struct{}, 1)
	s := New(Options{Log: slog.New(slog.DiscardHandler), Changed: func() {
		select {
		case told <- struct{}{}:
		default:
		}
	}})
	if _, ok := s.Statuses("node-a"); ok {
		t.Error("something is known before the first Set")
	}
	s.Set(w.input("node-a"))
	names := func() (out []string) {
		objects, _ := s.Statuses("node-a")
		for _, o := range objects {
			status := o.(*kinds.ServiceBGPStatus).Status
			out = append(out, fmt.Sprint(status.Node, " ", status.ServiceName, " ", status.Peers))
		}
		slices.Sort(out)
		return out
	}
	if got := fmt.Sprint(names()); got != "[node-a api [router] node-a web [router]]" {
		t.Errorf("the objects say %s", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-told
	want := []announcing.Fault{
		{Kind: "BGPPeer", Name: "router", Field: "spec.passwordSecret", Problem: "Secret metallb-system/key: no Secret can be read here"},
		{Kind: "BGPAdvertisement", Name: "all", Field: "spec.ipAddressPools[1]", Problem: "there is no IPAddressPool wan"},
	}
	if got := s.Faults(); !slices.Equal(got, want) {
		t.Errorf("the faults are %v, not %v", got, want)
	}
	if err := s.Leave(ctx); err != nil {
		t.Error(err)
	}
	if got := names(); len(got) > 0 {
		t.Errorf("after leaving the objects say %s", got)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

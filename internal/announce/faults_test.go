package announce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/announce/statuses"
	"portico.dev/portico/internal/core/announcing"
	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/metallb"
)

// LB-07: each fault is told once, on its object, and again when it comes back.
func TestFaults(t *testing.T) {
	var events []string
	f := NewFaults("a", statuses.NewWriter("a", metallb.ConfigurationStates, nil, slog.New(slog.DiscardHandler)),
		func(on *corev1.ObjectReference, reason, message string) {
			events = append(events, fmt.Sprint(on.APIVersion, " ", on.Kind, " ", on.Namespace, "/", on.Name, " ", on.UID, " ", reason, " ", message))
		})
	ad := &core.L2Advertisement{ObjectMeta: metav1.ObjectMeta{Name: "lan", UID: "1"}, Spec: core.L2AdvertisementSpec{IPAddressPools: []string{"lan"}}}
	config := &core.Config{
		L2Advertisements: []*core.L2Advertisement{ad},
		BGPPeers:         []*core.BGPPeer{{ObjectMeta: metav1.ObjectMeta{Name: "router", UID: "2"}}},
	}
	peer := announcing.Fault{Kind: "BGPPeer", Name: "router", Field: "spec.peerAddress", Problem: "is missing"}
	const (
		adEvent   = "metallb.io/v1beta1 L2Advertisement metallb-system/lan 1 ConfigurationError spec.ipAddressPools[0]: there is no IPAddressPool lan"
		peerEvent = "metallb.io/v1beta2 BGPPeer metallb-system/router 2 ConfigurationError spec.peerAddress: is missing"
	)
	for i, step := range []struct {
		do     func()
		events []string
		texts  int
	}{
		{func() { f.SetBGP([]announcing.Fault{peer}) }, nil, 0}, // the objects aren't known yet
		{func() { f.Set(announcing.Input{Config: config}) }, []string{adEvent, peerEvent}, 2},
		{func() { f.Set(announcing.Input{Config: config}) }, nil, 2},
		{func() { f.SetBGP(nil) }, nil, 1},
		{func() { f.SetBGP([]announcing.Fault{peer}) }, []string{peerEvent}, 2},
	} {
		events = nil
		step.do()
		if !slices.Equal(events, step.events) || len(f.Texts()) != step.texts {
			t.Errorf("step %d: events %q, texts %q", i, events, f.Texts())
		}
	}
}

// leaving is a Part that gives up, or fails to.
type leaving struct {
	err  error
	left bool
}

func (l *leaving) Set(announcing.Input) {}

func (l *leaving) Leave(context.Context) error {
	l.left = true
	return l.err
}

// LB-03: all parts leave, whatever one of them says.
func TestLeave(t *testing.T) {
	failing, good := &leaving{err: errors.New("no router can be told")}, &leaving{}
	err := NewCollector(Config{}, &Faults{}, failing, good).Leave(t.Context())
	if !errors.Is(err, failing.err) || !failing.left || !good.left {
		t.Errorf("%v; left: %v and %v", err, failing.left, good.left)
	}
}

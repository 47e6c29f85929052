package cli

import (
	"context"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/spf13/pflag"

	"portico.dev/portico/internal/announce"
	"portico.dev/portico/internal/announce/greet"
	"portico.dev/portico/internal/announce/l2"
	"portico.dev/portico/internal/announce/statuses"
	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/metallb"
)

// announceStore is what a quick restart of the agent finds.
const announceStore = "node/announce.json"

func (o *options) announceFlags(f *pflag.FlagSet) {
	f.StringVar(&o.announce, "announce", "auto", "announce load-balancer addresses: auto or none (where MetalLB's speakers do)")
}

// startAnnounce starts what makes load-balancer addresses known. It waits for nothing
// from the API: peers count a silent agent as lost soon.
func (n *nodeRun) startAnnounce() error {
	if n.o.announce == "none" {
		return nil
	}
	objects, err := dynamic.NewForConfig(n.config)
	if err != nil {
		return fmt.Errorf("make the agent's client of MetalLB's objects: %w", err)
	}
	log := n.log.With("part", "announce")
	mesh, err := greet.Open(n.o.nodeName, log)
	if err != nil {
		return err
	}
	recorder, stopEvents := newRecorder(n.kube, "portico-agent", scheme.Scheme)
	n.faults = announce.NewFaults(n.o.nodeName, statuses.NewWriter(n.o.nodeName, metallb.ConfigurationStates, objects, log),
		func(on *corev1.ObjectReference, reason, message string) {
			recorder.Event(on, corev1.EventTypeWarning, reason, "on node "+n.o.nodeName+": "+message)
		})
	n.layer2 = l2.New(l2.Config{
		Self: n.o.nodeName, Mesh: mesh, Skip: []string{"portico"},
		Store:  l2.NewStore(filepath.Join(n.o.dataDir, announceStore)),
		Status: statuses.NewWriter(n.o.nodeName, metallb.ServiceL2Statuses, objects, log), Log: log,
		Event: func(s *announcing.Service, reason, message string) {
			recorder.Event(&corev1.ObjectReference{
				APIVersion: "v1", Kind: "Service", Namespace: s.Name.Namespace, Name: s.Name.Name, UID: s.Service.UID,
			}, corev1.EventTypeNormal, reason, message)
		},
	})
	n.startBGP(objects, recorder)
	n.collector = announce.NewCollector(announce.Config{Self: n.o.nodeName, Client: n.kube, Objects: objects, Log: log}, n.faults, n.layer2, n.bgp)
	n.start("layer 2 announcements", func(ctx context.Context) error {
		defer stopEvents()
		return n.layer2.Run(ctx)
	})
	n.start("key of greetings", func(ctx context.Context) error {
		greet.FollowKey(ctx, n.kube, log, n.layer2.SetKeys)
		return nil
	})
	n.start("load-balancer addresses", n.collector.Run)
	n.start("faults of load balancers", n.faults.Run)
	n.start("answers to portico announce", func(ctx context.Context) error {
		return serveAnswers(ctx, filepath.Join(n.o.dataDir, announceSocket), n.log, map[string]answer{
			askLayer2: func(context.Context) any { return layer2Answer{n.layer2.Report(), n.faults.Texts()} },
			askBGP:    func(context.Context) any { return n.bgp.State() },
			askLeave:  func(ctx context.Context) any { return leaveAnswer{messageOf(n.collector.Leave(ctx))} },
		})
	})
	return nil
}

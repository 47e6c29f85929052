package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/dynamic"

	"github.com/spf13/pflag"

	"portico.dev/portico/internal/announce"
	"portico.dev/portico/internal/announce/greet"
	"portico.dev/portico/internal/announce/l2"
	"portico.dev/portico/internal/core/announcing"
)

const (
	// announceSocket is below the data directory; `portico announce` asks there.
	announceSocket = "node/announce.sock"
	// announceStore is what a quick restart of the agent finds.
	announceStore = "node/announce.json"
)

func (o *options) announceFlags(f *pflag.FlagSet) {
	f.StringVar(&o.announce, "announce", "auto", "announce load-balancer addresses: auto or none (where MetalLB's speakers do)")
}

// startAnnounce starts what makes load-balancer addresses known. It begins before the API
// was asked for anything: peers count a silent agent as lost soon.
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
	recorder, stopEvents := newRecorder(n.kube, "portico-agent")
	n.layer2 = l2.New(l2.Config{
		Self: n.o.nodeName, Mesh: mesh, Skip: []string{"portico"},
		Store:  l2.NewStore(filepath.Join(n.o.dataDir, announceStore)),
		Status: l2.NewStatus(n.o.nodeName, objects, log), Log: log,
		Event: func(s *announcing.Service, reason, message string) {
			recorder.Event(&corev1.ObjectReference{
				APIVersion: "v1", Kind: "Service", Namespace: s.Name.Namespace, Name: s.Name.Name, UID: s.Service.UID,
			}, corev1.EventTypeNormal, reason, message)
		},
	})
	n.startBGP(objects)
	n.collector = announce.NewCollector(announce.Config{Self: n.o.nodeName, Client: n.kube, Objects: objects, Log: log}, n.layer2, n.bgp)
	n.start("layer 2 announcements", func(ctx context.Context) error {
		defer stopEvents()
		return n.layer2.Run(ctx)
	})
	n.start("key of greetings", func(ctx context.Context) error {
		greet.FollowKey(ctx, n.kube, log, n.layer2.SetKeys)
		return nil
	})
	n.start("load-balancer addresses", n.collector.Run)
	n.start("answers to portico announce", n.serveAnnounced)
	return nil
}

// serveAnnounced tells each who connects to the socket what is announced. Without the
// socket all else works.
func (n *nodeRun) serveAnnounced(ctx context.Context) error {
	l, err := listenPrivately(filepath.Join(n.o.dataDir, announceSocket))
	if err != nil {
		n.log.Warn("`portico announce` won't find this agent", "error", err)
		return nil
	}
	stop := context.AfterFunc(ctx, func() { l.Close() }) //nolint:errcheck // the kernel removes it
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return nil // ctx ended
		}
		c.SetDeadline(time.Now().Add(statusTimeout))     //nolint:errcheck // a socket of ours
		_ = json.NewEncoder(c).Encode(n.layer2.Report()) // who went away has no need of it
		c.Close()                                        //nolint:errcheck // likewise
	}
}

// listenPrivately opens a Unix socket for this user alone, in the place of an earlier run's.
func listenPrivately(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	const ownerOnly = 0o600
	return l, os.Chmod(path, ownerOnly)
}

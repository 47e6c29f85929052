// Command slices measures how soon EndpointSlices follow Services and pods: Portico
// against kube-apiserver with etcd and kube-controller-manager's endpointslice controller,
// by turns in one run. See docs/performance.md for what the figures mean.
package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"portico.dev/portico/bench/apiserver"
	"portico.dev/portico/bench/process"
)

// plan is what is measured, and how often.
type plan struct {
	process.Plan
	peer     apiserver.Peer // no peer without its binaries
	compute  string         // file with what `go test -bench` said of core/endpoints
	services int
	changes  int           // that are timed one by one
	burst    int           // pods that change at once
	look     time.Duration // for so long servers must be quiet, some times, before a measurement
	profile  string
}

func main() { process.Main(run) }

func run(ctx context.Context, args []string) error {
	p, err := parse(args)
	if err != nil {
		return err
	}
	return p.run(ctx)
}

func parse(args []string) (*plan, error) {
	p := &plan{}
	p.peer.Controllers = "endpointslice-controller"
	f := p.Flags("slices")
	f.StringVar(&p.peer.Etcd, "etcd", "", "the peer's etcd; none: only ours is measured")
	f.StringVar(&p.peer.APIServer, "kube-apiserver", "", "the peer's API server")
	f.StringVar(&p.peer.ControllerManager, "kube-controller-manager", "", "the peer's controllers")
	f.StringVar(&p.compute, "compute", "", "what `go test -bench` said of internal/core/endpoints, to be among the figures")
	f.StringVar(&p.profile, "profile", "", "folder for profiles of our server, which cost some speed: one round without the peer, no file")
	f.IntVar(&p.services, "services", 1000, "how many Services, with a pod each")
	f.IntVar(&p.changes, "changes", 300, "how many changes of pods are timed one after the other")
	f.IntVar(&p.burst, "burst", 500, "how many pods change at once")
	f.DurationVar(&p.look, "look", time.Second, "how long servers must be quiet, three times, before a measurement begins")
	if err := process.Parse(f, args); err != nil {
		return nil, err
	}
	if p.Short {
		p.peer, p.services, p.changes, p.burst, p.Rounds, p.look = apiserver.Peer{}, 100, 30, 50, 1, 200*time.Millisecond
	}
	if p.profile != "" {
		p.peer, p.Rounds, p.Out = apiserver.Peer{}, 1, ""
	}
	if p.peer.Etcd == "" != (p.peer.APIServer == "") || p.peer.Etcd == "" != (p.peer.ControllerManager == "") {
		return nil, errors.New("-etcd, -kube-apiserver and -kube-controller-manager are wanted together")
	}
	if p.Rounds < 1 || p.services < 1 || p.services > maxServices || p.changes < 2 || p.changes > 2*p.services || p.burst < 1 || p.burst > p.services || p.look <= 0 {
		return nil, fmt.Errorf("wanted: a round, up to %d Services, no larger burst than that, two changes for each at most, and a time to look", maxServices)
	}
	return p, nil
}

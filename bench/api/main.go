// Command api measures Portico's API server against kube-apiserver with etcd: both on
// this machine, one after the other, several times, with the same clients. See
// docs/performance.md for what the figures mean.
package main

import (
	"context"
	"errors"
	"time"

	"portico.dev/portico/bench/apiserver"
	"portico.dev/portico/bench/process"
)

// plan is what is measured, and how often.
type plan struct {
	process.Plan
	etcd, apiserver      string // binaries; no peer without them
	serverCPUs, loadCPUs string
	profile              string
	floor                bool
	idle                 time.Duration
	job                  job // of the load process, without its phase
}

func main() { process.Main(run) }

func run(ctx context.Context, args []string) error {
	if len(args) == 1 && args[0] == loadCommand {
		return load(ctx)
	}
	if len(args) == 3 && args[0] == floorCommand {
		return apiserver.ServeFloor(ctx, args[1], args[2])
	}
	p, err := parse(args)
	if err != nil {
		return err
	}
	return p.run(ctx)
}

func parse(args []string) (*plan, error) {
	p := &plan{}
	f := p.Flags("api")
	f.StringVar(&p.etcd, "etcd", "", "the peer's etcd; none: only ours is measured")
	f.StringVar(&p.apiserver, "kube-apiserver", "", "the peer's API server")
	f.StringVar(&p.serverCPUs, "server-cpus", "", "processors of the servers, as taskset's -c has them; all by default")
	f.StringVar(&p.loadCPUs, "load-cpus", "", "processors of the load")
	f.StringVar(&p.profile, "profile", "", "folder for profiles of our server, which cost some speed: one round without the peer")
	f.DurationVar(&p.idle, "idle", 15*time.Second, "how long a server is left alone before its memory is read")
	f.BoolVar(&p.floor, "floor", false, "measure also a server that only answers: what nobody can be below")
	p.job = job{Clients: 8, Gets: 10_000, Changes: 30}
	f.IntVar(&p.job.Services, "services", 10_000, "how many Services are created")
	f.IntVar(&p.job.Watchers, "watchers", 1000, "how many watch one Service's namespace")
	f.IntVar(&p.job.Connections, "connections", 100, "over how many connections they do")
	if err := process.Parse(f, args); err != nil {
		return nil, err
	}
	if p.Short {
		p.Rounds, p.etcd, p.apiserver, p.idle = 1, "", "", time.Second
		p.job.Services, p.job.Gets, p.job.Changes, p.job.Watchers, p.job.Connections = 500, 500, 5, 100, 10
	}
	if p.profile != "" {
		p.Rounds, p.etcd, p.apiserver = 1, "", ""
	}
	if (p.etcd == "") != (p.apiserver == "") {
		return nil, errors.New("-etcd and -kube-apiserver are wanted together")
	}
	if p.Rounds < 1 || p.job.Services < 10 || p.job.Connections < 1 || p.job.Watchers < p.job.Connections {
		return nil, errors.New("wanted: a round, ten Services, and a watcher for each connection, at least")
	}
	return p, nil
}

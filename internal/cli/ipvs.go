package cli

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/iptables"
	"portico.dev/portico/internal/dataplane/ipvs"
)

const ipvsName = "ipvs"

// ipvsOptions are the settings of the data plane on IPVS.
type ipvsOptions struct {
	scheduler, exclude string

	excluded []netip.Prefix // parsed by complete
}

func (o *ipvsOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.scheduler, "ipvs-scheduler", ipvs.DefaultScheduler, "`name` of the scheduler by which IPVS picks backends: "+strings.Join(catalog.Schedulers(), ", ")+"; a Service's annotation "+catalog.SchedulerAnnotation+" wins")
	f.StringVar(&o.exclude, "ipvs-exclude", "", "`ranges` in which virtual servers are somebody else's, like 203.0.113.0/24")
}

func (o *ipvsOptions) complete() error {
	if known := catalog.Schedulers(); !slices.Contains(known, o.scheduler) {
		return fmt.Errorf("--ipvs-scheduler %q is unknown; choose one of %s", o.scheduler, strings.Join(known, ", "))
	}
	o.excluded = nil
	for s := range strings.SplitSeq(o.exclude, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("--ipvs-exclude: %q is not a range of addresses; write it like 203.0.113.0/24", s)
		}
		o.excluded = append(o.excluded, p.Masked())
	}
	return nil
}

// openIPVS opens the data plane. That the kernel lacks a Service's scheduler is told by an
// Event too: who annotates a Service seldom reads the node's log.
func openIPVS(n *nodeRun) (dataplane.Backend, error) {
	if n.o.ipvs.scheduler != ipvs.DefaultScheduler {
		if err := ipvs.Missing(n.o.ipvs.scheduler); err != nil {
			return nil, fmt.Errorf("--ipvs-scheduler %s: %w", n.o.ipvs.scheduler, err)
		}
	}
	recorder, stop := newRecorder(n.kube, "portico-agent", scheme.Scheme)
	backend, err := ipvs.New(ipvs.Config{
		Workloads: n.workloads(), Addresses: n.own(), MarkBit: n.o.masqueradeBit, Logger: n.log,
		Scheduler: n.o.ipvs.scheduler, Exclude: n.o.ipvs.excluded,
		Lacking: func(service types.NamespacedName, uid types.UID, text string) {
			recorder.Event(&corev1.ObjectReference{
				APIVersion: "v1", Kind: "Service", Namespace: service.Namespace, Name: service.Name, UID: uid,
			}, corev1.EventTypeWarning, "NoSuchScheduler", "on node "+n.o.nodeName+": "+text)
		},
	})
	if err != nil {
		stop()
		return nil, err
	}
	n.start("events of IPVS", func(ctx context.Context) error {
		<-ctx.Done()
		stop()
		return nil
	})
	return backend, nil
}

func missingIPVS() error { return ipvs.Missing(ipvs.DefaultScheduler) }

func inspectIPVS(last *runRecord) (dataplane.Inspector, error) {
	cfg := ipvs.Config{MarkBit: iptables.DefaultMasqueradeBit}
	if last != nil {
		cfg.MarkBit, cfg.Scheduler, cfg.Exclude = last.MasqueradeBit, last.IPVSScheduler, last.IPVSExclude
	}
	return ipvs.OpenReader(cfg)
}

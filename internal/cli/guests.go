package cli

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/controllers/system"
	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/kubevirt"
	"portico.dev/portico/internal/node"
	"portico.dev/portico/internal/node/door"
	"portico.dev/portico/internal/node/machines"
	"portico.dev/portico/internal/vm"
	"portico.dev/portico/internal/vm/accel"
	"portico.dev/portico/internal/vm/image"
	"portico.dev/portico/internal/vm/link"
)

const (
	// A guest that is to stop is asked once no slice calls it ready and the data
	// planes had handOffMargin to follow, some ten times what they take; what hangs
	// is not waited for longer than handOffLimit (VM-07).
	handOffMargin = 300 * time.Millisecond
	handOffLimit  = 3 * time.Second
)

// startGuests starts what runs the pods of this node. stop ends it, in the reverse
// order; guests go on running.
func (n *nodeRun) startGuests() (stop func(), err error) {
	var undo []func()
	stop = func() {
		n.cancel(nil)
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	recorder, stopRecorder := newRecorder(n.kube, "portico-agent", scheme.Scheme)
	undo = append(undo, stopRecorder)
	config := node.Config{
		Name: n.o.nodeName, HostIPs: n.addresses.All(), Client: n.kube, Runtime: node.NoRuntime{}, Recorder: recorder,
		HandOff: node.SliceHandOff(n.kube, clock.RealClock{}, handOffMargin, handOffLimit), Clock: clock.RealClock{}, Log: n.log,
	}
	var runtime *machines.Machines
	if n.o.vm != "off" {
		guests, closeGuests, err := n.openGuests()
		if err != nil {
			return nil, err
		}
		undo = append(undo, closeGuests)
		if runtime, err = n.newMachines(guests); err != nil {
			return nil, err
		}
		undo = append(undo, runtime.Close)
		config.Runtime = runtime
	}
	n.node = node.New(config)
	ended := make(chan struct{})
	undo = append(undo, func() { <-ended })
	n.start("guests", func(ctx context.Context) error {
		defer close(ended)
		return n.node.Run(ctx)
	})
	if runtime != nil && n.keys != nil {
		if err := n.startDoor(machines.Source{Node: n.node, Machines: runtime}); err != nil {
			return nil, err
		}
	}
	return stop, nil
}

// openGuests opens the guests of this host and takes over those that run.
func (n *nodeRun) openGuests() (_ *vm.Manager, closeAll func(), err error) {
	choice, err := accel.Detect(accel.Mode(n.o.vm))
	if err != nil {
		return nil, nil, err
	}
	n.log.Info("Guests", "kvm", choice.KVM, "because", choice.Message)
	images, err := image.Open(filepath.Join(n.o.dataDir, "images"))
	if err != nil {
		return nil, nil, err
	}
	n.mtu.await(n.ctx)
	mtu, err := n.mtu.now()
	if err != nil {
		return nil, nil, err
	}
	links, err := link.Open(link.Config{Source4: n.network.Own(false), Source6: n.network.Own(true), MTU: mtu, Log: n.log})
	if err != nil {
		return nil, nil, err
	}
	if err := n.hush.add(links.Keeper()); err != nil {
		links.Close()
		return nil, nil, err
	}
	n.mtu.follow(links)
	guests, err := vm.Open(vm.Config{Dir: guestsDir(n.o.dataDir), Accel: choice, Images: images, Links: links, Log: n.log})
	if err != nil {
		links.Close()
		return nil, nil, err
	}
	if err := guests.Adopt(n.ctx); errors.Is(err, vm.ErrUnlisted) {
		// Their pods would be taken for those of lost guests.
		guests.Close()
		links.Close()
		return nil, nil, err
	} else if err != nil {
		n.log.Warn("Not every guest of the last run could be taken over", "error", err)
	}
	return guests, func() {
		guests.Close()
		links.Close()
	}, nil
}

// guestsDir is where the guests' folders lie.
func guestsDir(dataDir string) string { return filepath.Join(dataDir, "guests") }

func (n *nodeRun) newMachines(guests *vm.Manager) (*machines.Machines, error) {
	client, err := kubevirt.NewForConfig(n.config, nil)
	if err != nil {
		return nil, err
	}
	return machines.New(machines.Config{
		VM: guests, ClusterDNS: system.DNSAddresses(n.o.services), ClusterDomain: n.o.clusterDomain, Clock: clock.RealClock{}, Log: n.log,
		Instance: func(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstance, error) {
			return client.VirtualMachineInstances(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		Services: func(ctx context.Context, namespace string) ([]*catalog.Service, error) {
			return describedServices(ctx, n.kube.CoreV1(), namespace)
		},
	}), nil
}

// startDoor lets the API server reach guests' consoles.
func (n *nodeRun) startDoor(source door.Source) error {
	n.door = &doorway{
		keys: n.keys, source: source, log: n.log, start: n.start,
		open: map[netip.Addr]func(){},
	}
	return n.door.follow(n.addresses.All())
}

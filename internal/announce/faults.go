package announce

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/announce/statuses"
	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/election"
	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/metallb"
)

// Faults tells people what of the configuration can't be on this node: in its
// ConfigurationState, and each once in an event on the object. It is a Part, which finds
// the faults of L2Advertisements itself; those of BGP are handed over.
type Faults struct {
	node   string
	status *statuses.Writer // of ConfigurationState
	event  func(on *corev1.ObjectReference, reason, message string)
	now    func() time.Time

	mu     sync.Mutex   // guards the following
	config *core.Config // nil: not known yet
	layer2 []announcing.Fault
	bgp    []announcing.Fault
	told   []announcing.Fault
	begun  bool // told was written
}

// NewFaults makes a Faults. Events go to event, which must not block.
func NewFaults(node string, writer *statuses.Writer, event func(on *corev1.ObjectReference, reason, message string)) *Faults {
	return &Faults{node: node, status: writer, event: event, now: time.Now}
}

// Run writes until ctx ends.
func (f *Faults) Run(ctx context.Context) error { return f.status.Run(ctx) }

// Set implements Part.
func (f *Faults) Set(in announcing.Input) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.config, f.layer2 = in.Config, election.Faults(in.Config)
	f.tell()
}

// SetBGP takes the faults of BGP objects.
func (f *Faults) SetBGP(faults []announcing.Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bgp = faults
	f.tell()
}

// Texts gives all faults as people read them.
func (f *Faults) Texts() (out []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fault := range f.told {
		out = append(out, fault.Error())
	}
	return out
}

// tell says what is news. mu is held.
func (f *Faults) tell() {
	all := slices.Concat(f.layer2, f.bgp)
	if f.config == nil || f.begun && slices.Equal(all, f.told) {
		return
	}
	for _, fault := range all {
		if !slices.Contains(f.told, fault) {
			f.event(f.reference(fault), "ConfigurationError", fault.Field+": "+fault.Problem)
		}
	}
	f.told, f.begun = all, true
	f.status.Set([]metav1.Object{statuses.State(f.node, all, metav1.NewTime(f.now()))})
}

// reference names the object of a fault. mu is held.
func (f *Faults) reference(fault announcing.Fault) *corev1.ObjectReference {
	ref := &corev1.ObjectReference{
		APIVersion: metallb.L2Advertisements.GroupVersion().String(), Kind: fault.Kind, Namespace: core.Namespace, Name: fault.Name,
	}
	switch fault.Kind {
	case "L2Advertisement":
		ref.UID = uid(f.config.L2Advertisements, fault.Name)
	case "BGPAdvertisement":
		ref.UID = uid(f.config.BGPAdvertisements, fault.Name)
	case "BGPPeer":
		ref.APIVersion, ref.UID = metallb.BGPPeers.GroupVersion().String(), uid(f.config.BGPPeers, fault.Name)
	case "BFDProfile":
		ref.UID = uid(f.config.BFDProfiles, fault.Name)
	case "Community":
		ref.UID = uid(f.config.Communities, fault.Name)
	}
	return ref
}

func uid[T metav1.Object](objects []T, name string) types.UID {
	for _, o := range objects {
		if o.GetName() == name {
			return o.GetUID()
		}
	}
	return ""
}

package node

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Runtime runs workloads of one kind. Its methods may be called at once.
type Runtime interface {
	// Runs reports whether the pod is of this runtime's kind.
	Runs(pod *corev1.Pod) bool
	// Start begins the pod's workload. An error may be a *StartError.
	Start(ctx context.Context, pod *corev1.Pod) (Workload, error)
	// Find gives the pod's workload if there is one, also one that an earlier
	// daemon started or that has ended; nil: there is none. An error: that can't be
	// told, and the pod is to stay as it is; but with ErrLost there is none any more.
	Find(pod *corev1.Pod) (Workload, error)
	// Workloads gives all there are.
	Workloads() []Workload
	// Unknown gives those of which only is known that they run, each by the UID of its
	// pod's controller. Find gives an error for such a pod.
	Unknown() []types.UID
	// EndUnknown ends one of them, as a Workload's Stop does.
	EndUnknown(ctx context.Context, controller types.UID, grace time.Duration) error
}

// ErrLost is in the error of a Find that knows why a workload is gone.
var ErrLost = errors.New("the node lost the guest")

// NoRuntime runs nothing: its pods stay Pending and say why.
type NoRuntime struct{}

// Runs implements Runtime.
func (NoRuntime) Runs(*corev1.Pod) bool { return false }

// Start implements Runtime; it is never called.
func (NoRuntime) Start(context.Context, *corev1.Pod) (Workload, error) {
	return nil, errors.ErrUnsupported
}

// Find implements Runtime.
func (NoRuntime) Find(*corev1.Pod) (Workload, error) { return nil, nil }

// Workloads implements Runtime.
func (NoRuntime) Workloads() []Workload { return nil }

// Unknown implements Runtime.
func (NoRuntime) Unknown() []types.UID { return nil }

// EndUnknown implements Runtime; it is never called.
func (NoRuntime) EndUnknown(context.Context, types.UID, time.Duration) error {
	return errors.ErrUnsupported
}

// Workload is what runs for one pod.
type Workload interface {
	PodUID() types.UID
	// Observe tells how it is now.
	Observe() Observation
	// Changed holds a token when Observe may give something new.
	Changed() <-chan struct{}
	// Stop asks it to end, and ends it when the grace period is over. It may be
	// called again, with less patience, while it waits.
	Stop(ctx context.Context, grace time.Duration) error
	// Remove frees all that an ended workload still holds.
	Remove() error
}

// Observation is a workload at one moment.
type Observation struct {
	Phase      corev1.PodPhase // Running, Succeeded or Failed
	Ready      bool
	Reason     string // why it isn't ready, or how it ended
	Message    string
	ID         string // of the workload: "qemu://<uid>"
	Started    time.Time
	Ended      time.Time
	Conditions []corev1.PodCondition // further ones, without times
}

// StartError is a failed start with a word for machines.
type StartError struct {
	Reason string
	Err    error
}

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// startReason is the word of a failed start.
func startReason(err error) string {
	var s *StartError
	if errors.As(err, &s) {
		return s.Reason
	}
	return "StartFailed"
}

// Recorder makes events; client-go's record.EventRecorder is one.
type Recorder interface {
	Event(object runtime.Object, eventtype, reason, message string)
}

package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/core/machine"
)

// maxOptionsBytes bounds the body of a subresource call; options are a few fields.
const maxOptionsBytes = 64 << 10

// consoleProtocol is the websocket subprotocol of virtctl: raw bytes in binary frames.
const consoleProtocol = "plain.kubevirt.io"

// Doors reaches guests' streams through the door of the node they run on.
type Doors interface {
	// Console opens the serial console of an instance that runs on node.
	Console(ctx context.Context, node, namespace, instance string) (net.Conn, error)
}

// machines reads and changes what the verbs on machines need.
type machines struct {
	vms, instances, status *registry.Store // status updates VirtualMachine's status
}

// verbStorage serves PUT virtualmachines/NAME/{start,stop,restart} as virtctl calls
// it: an optional JSON body of options in, 202 or a Status out (VM-01).
type verbStorage struct {
	machines
	decide func(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, body []byte) (machine.Change, error)
}

// decideWith adapts a decision of core/machine that takes options of type O.
func decideWith[O any](decide func(*kubevirtv1.VirtualMachine, *kubevirtv1.VirtualMachineInstance, O) (machine.Change, error),
) func(*kubevirtv1.VirtualMachine, *kubevirtv1.VirtualMachineInstance, []byte) (machine.Change, error) {
	return func(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, body []byte) (machine.Change, error) {
		var options O
		if len(body) > 0 {
			if err := json.Unmarshal(body, &options); err != nil {
				return machine.Change{}, apierrors.NewBadRequest(fmt.Sprintf("the body must be %T as JSON: %v", options, err))
			}
		}
		return decide(vm, vmi, options)
	}
}

func (s *verbStorage) New() runtime.Object                               { return &kubevirtv1.VirtualMachine{} }
func (s *verbStorage) Destroy()                                          {}
func (s *verbStorage) ConnectMethods() []string                          { return []string{http.MethodPut} }
func (s *verbStorage) NewConnectOptions() (runtime.Object, bool, string) { return nil, false, "" }

// GroupVersionKind says that the answer is none of the subresource group's own kinds.
func (s *verbStorage) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return kubevirtv1.VirtualMachineGroupVersionKind
}

func (s *verbStorage) Connect(ctx context.Context, name string, _ runtime.Object, r rest.Responder) (http.Handler, error) {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxOptionsBytes))
		if err == nil {
			err = s.apply(ctx, name, body)
		}
		if err != nil {
			r.Error(err)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}), nil
}

// apply decides on the machine as it is and writes the change. A conflict means that
// it changed meanwhile: the decision is made anew.
func (s *verbStorage) apply(ctx context.Context, name string, body []byte) error {
	vmi, err := s.instance(ctx, name)
	if err != nil {
		return err
	}
	vm, err := s.vms.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return err
	}
	change, err := s.decide(vm.(*kubevirtv1.VirtualMachine).DeepCopy(), vmi, body)
	if err != nil {
		return err
	}
	toStatus := change.ToStatus()
	decide := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		vm := old.(*kubevirtv1.VirtualMachine).DeepCopy()
		change, err := s.decide(vm, vmi, body)
		if err != nil {
			return nil, err
		}
		if change.ToStatus() != toStatus {
			return nil, apierrors.NewConflict(kubevirtv1.Resource("virtualmachines"), name, errors.New("its run strategy changed meanwhile; try again"))
		}
		change.Apply(vm)
		return vm, nil
	})
	if change.GracePeriod != nil {
		if err := s.setGrace(ctx, name, *change.GracePeriod); err != nil {
			return err
		}
	}
	store := s.vms
	if toStatus {
		store = s.status
	}
	_, _, err = store.Update(ctx, name, decide, nil, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	return err
}

func (s *verbStorage) setGrace(ctx context.Context, name string, seconds int64) error {
	update := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		vmi := old.(*kubevirtv1.VirtualMachineInstance).DeepCopy()
		vmi.Spec.TerminationGracePeriodSeconds = &seconds
		return vmi, nil
	})
	_, _, err := s.instances.Update(ctx, name, update, nil, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
	return err
}

// instance is the machine's instance, nil where there is none.
func (m *machines) instance(ctx context.Context, name string) (*kubevirtv1.VirtualMachineInstance, error) {
	obj, err := m.instances.Get(ctx, name, &metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return obj.(*kubevirtv1.VirtualMachineInstance), nil
}

// consoleStorage serves GET virtualmachineinstances/NAME/console: a websocket with
// the bytes of the first serial port.
type consoleStorage struct {
	machines
	doors Doors
}

func (s *consoleStorage) New() runtime.Object      { return &kubevirtv1.VirtualMachineInstance{} }
func (s *consoleStorage) Destroy()                 {}
func (s *consoleStorage) ConnectMethods() []string { return []string{http.MethodGet} }

func (s *consoleStorage) NewConnectOptions() (runtime.Object, bool, string) { return nil, false, "" }

func (s *consoleStorage) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return kubevirtv1.VirtualMachineInstanceGroupVersionKind
}

func (s *consoleStorage) Connect(ctx context.Context, name string, _ runtime.Object, r rest.Responder) (http.Handler, error) {
	vmi, err := s.instance(ctx, name)
	if err != nil {
		return nil, err
	}
	conflict := func(msg string) error {
		return apierrors.NewConflict(kubevirtv1.Resource("virtualmachineinstances"), name, errors.New(msg))
	}
	switch {
	case vmi == nil:
		return nil, apierrors.NewNotFound(kubevirtv1.Resource("virtualmachineinstances"), name)
	case vmi.Status.Phase != kubevirtv1.Running:
		return nil, conflict("VMI is not running; its console can be opened once its phase is Running")
	case s.doors == nil:
		return nil, apierrors.NewServiceUnavailable("this API server reaches no node's door; open the console on a server that runs an agent")
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !websocket.IsWebSocketUpgrade(req) {
			r.Error(apierrors.NewBadRequest("the console is a websocket; use `portico vm console` or `virtctl console`"))
			return
		}
		door, err := s.doors.Console(ctx, vmi.Status.NodeName, vmi.Namespace, vmi.Name)
		if err != nil {
			r.Error(apierrors.NewServiceUnavailable(fmt.Sprintf("open the console of %s/%s on node %s: %v", vmi.Namespace, vmi.Name, vmi.Status.NodeName, err)))
			return
		}
		defer door.Close()
		// Its own check of the Origin stays: no page of another site may use a
		// browser's client certificate. Programs send none.
		upgrader := websocket.Upgrader{Subprotocols: []string{consoleProtocol}}
		ws, err := upgrader.Upgrade(w, req, nil)
		if err != nil {
			return // the upgrader answered
		}
		pump(ws, door)
	}), nil
}

// pump carries bytes both ways until either side ends, then closes both.
func pump(ws *websocket.Conn, door net.Conn) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer ws.Close()
		buf := make([]byte, 4096)
		for {
			n, err := door.Read(buf)
			if n > 0 && ws.WriteMessage(websocket.BinaryMessage, buf[:n]) != nil || err != nil {
				return
			}
		}
	}()
	for {
		_, r, err := ws.NextReader()
		if err == nil {
			_, err = io.Copy(door, r)
		}
		if err != nil {
			break
		}
	}
	door.Close()
	<-done
}

// parentStorage stands for the resource whose subresources a group serves: the
// installer wants one, though this group serves the subresources only.
type parentStorage struct {
	object   runtime.Object
	kind     schema.GroupVersionKind
	singular string
}

func (p parentStorage) New() runtime.Object     { return p.object.DeepCopyObject() }
func (p parentStorage) Destroy()                {}
func (p parentStorage) NamespaceScoped() bool   { return true }
func (p parentStorage) GetSingularName() string { return p.singular }
func (p parentStorage) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return p.kind
}

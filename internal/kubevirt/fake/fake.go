// Package fake is kubevirt.Interface in memory, for tests.
//
// In: objects. Out: the same objects, and what the code under test made of
// them. It does what controllers rely on and no more: UIDs, generations,
// resource versions with conflicts, a status that only UpdateStatus changes, and
// deletes that wait for finalizers. It validates and defaults nothing.
package fake

import (
	"fmt"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/kubevirt"
)

// Client is a store of machines behind kubevirt.Interface. Fake records the
// actions and takes reactors that make calls fail.
type Client struct {
	Fake    *clienttesting.Fake
	tracker clienttesting.ObjectTracker
	clock   clock.PassiveClock

	mu       sync.Mutex // guards the following, and makes read-change-write one step
	versions int
	uids     int
}

var _ kubevirt.Interface = (*Client)(nil)

// New makes a store whose timestamps come from clk.
func New(clk clock.PassiveClock) *Client {
	c := &Client{
		Fake:    &clienttesting.Fake{},
		tracker: clienttesting.NewObjectTracker(kubevirt.Scheme(), serializer.NewCodecFactory(kubevirt.Scheme()).UniversalDecoder()),
		clock:   clk,
	}
	read := clienttesting.ObjectReaction(c.tracker)
	c.Fake.AddReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch a := action.(type) {
		case clienttesting.CreateActionImpl:
			return c.create(a)
		case clienttesting.UpdateActionImpl:
			return c.update(a)
		case clienttesting.DeleteActionImpl:
			return c.delete(a)
		}
		return read(action)
	})
	c.Fake.AddWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		var since metav1.ListOptions // without them what was written since the list isn't told
		if a, ok := action.(clienttesting.WatchActionImpl); ok {
			since = a.ListOptions
		}
		w, err := c.tracker.Watch(action.GetResource(), action.GetNamespace(), since)
		return true, w, err
	})
	return c
}

// IsWatchListSemanticsUnSupported tells reflectors to list before they watch.
func (c *Client) IsWatchListSemanticsUnSupported() bool { return true }

// VirtualMachines implements kubevirt.Interface.
func (c *Client) VirtualMachines(namespace string) kubevirt.Machines {
	return gentype.NewFakeClientWithList(c.Fake, namespace,
		kubevirtv1.GroupVersion.WithResource("virtualmachines"), kubevirtv1.VirtualMachineGroupVersionKind,
		func() *kubevirtv1.VirtualMachine { return &kubevirtv1.VirtualMachine{} },
		func() *kubevirtv1.VirtualMachineList { return &kubevirtv1.VirtualMachineList{} },
		func(dst, src *kubevirtv1.VirtualMachineList) { dst.ListMeta = src.ListMeta },
		func(l *kubevirtv1.VirtualMachineList) []*kubevirtv1.VirtualMachine {
			return gentype.ToPointerSlice(l.Items)
		},
		func(l *kubevirtv1.VirtualMachineList, items []*kubevirtv1.VirtualMachine) {
			l.Items = gentype.FromPointerSlice(items)
		})
}

// VirtualMachineInstances implements kubevirt.Interface.
func (c *Client) VirtualMachineInstances(namespace string) kubevirt.Instances {
	return gentype.NewFakeClientWithList(c.Fake, namespace,
		kubevirtv1.GroupVersion.WithResource("virtualmachineinstances"), kubevirtv1.VirtualMachineInstanceGroupVersionKind,
		func() *kubevirtv1.VirtualMachineInstance { return &kubevirtv1.VirtualMachineInstance{} },
		func() *kubevirtv1.VirtualMachineInstanceList { return &kubevirtv1.VirtualMachineInstanceList{} },
		func(dst, src *kubevirtv1.VirtualMachineInstanceList) { dst.ListMeta = src.ListMeta },
		func(l *kubevirtv1.VirtualMachineInstanceList) []*kubevirtv1.VirtualMachineInstance {
			return gentype.ToPointerSlice(l.Items)
		},
		func(l *kubevirtv1.VirtualMachineInstanceList, items []*kubevirtv1.VirtualMachineInstance) {
			l.Items = gentype.FromPointerSlice(items)
		})
}

func (c *Client) create(a clienttesting.CreateActionImpl) (bool, runtime.Object, error) {
	obj := a.GetObject().DeepCopyObject()
	m, err := meta.Accessor(obj)
	if err != nil {
		return true, nil, err
	}
	c.uids++
	m.SetUID(types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", c.uids)))
	m.SetGeneration(1)
	m.SetCreationTimestamp(metav1.NewTime(c.clock.Now()))
	m.SetResourceVersion(c.nextVersion())
	setStatus(obj, nil)
	if err := c.tracker.Create(a.GetResource(), obj, a.GetNamespace()); err != nil {
		return true, nil, err
	}
	return true, obj, nil
}

func (c *Client) update(a clienttesting.UpdateActionImpl) (bool, runtime.Object, error) {
	obj := a.GetObject().DeepCopyObject()
	m, err := meta.Accessor(obj)
	if err != nil {
		return true, nil, err
	}
	gvr := a.GetResource()
	old, err := c.tracker.Get(gvr, a.GetNamespace(), m.GetName())
	if err != nil {
		return true, nil, err
	}
	o, err := meta.Accessor(old)
	if err != nil {
		return true, nil, err
	}
	if v := m.GetResourceVersion(); v != "" && v != o.GetResourceVersion() {
		return true, nil, conflict(gvr, m.GetName())
	}
	if a.GetSubresource() == "status" {
		updated := old.DeepCopyObject()
		setStatus(updated, obj)
		obj = updated
	} else {
		setStatus(obj, old)
		m.SetGeneration(o.GetGeneration() + 1)
		m.SetUID(o.GetUID())
		m.SetDeletionTimestamp(o.GetDeletionTimestamp())
	}
	if m, err = meta.Accessor(obj); err != nil {
		return true, nil, err
	}
	m.SetResourceVersion(c.nextVersion())
	if m.GetDeletionTimestamp() != nil && len(m.GetFinalizers()) == 0 {
		return true, obj, c.tracker.Delete(gvr, a.GetNamespace(), m.GetName())
	}
	return true, obj, c.tracker.Update(gvr, obj, a.GetNamespace())
}

func (c *Client) delete(a clienttesting.DeleteActionImpl) (bool, runtime.Object, error) {
	gvr := a.GetResource()
	old, err := c.tracker.Get(gvr, a.GetNamespace(), a.GetName())
	if err != nil {
		return true, nil, err
	}
	obj := old.DeepCopyObject()
	m, err := meta.Accessor(obj)
	if err != nil {
		return true, nil, err
	}
	if p := a.GetDeleteOptions().Preconditions; p != nil && p.UID != nil && *p.UID != m.GetUID() {
		return true, nil, conflict(gvr, a.GetName())
	}
	if len(m.GetFinalizers()) == 0 {
		return true, nil, c.tracker.Delete(gvr, a.GetNamespace(), a.GetName())
	}
	if m.GetDeletionTimestamp() == nil {
		now := metav1.NewTime(c.clock.Now())
		m.SetDeletionTimestamp(&now)
		m.SetResourceVersion(c.nextVersion())
		return true, nil, c.tracker.Update(gvr, obj, a.GetNamespace())
	}
	return true, nil, nil
}

func (c *Client) nextVersion() string {
	c.versions++
	return strconv.Itoa(c.versions)
}

// setStatus gives obj the status of from, or none.
func setStatus(obj, from runtime.Object) {
	switch o := obj.(type) {
	case *kubevirtv1.VirtualMachine:
		o.Status = kubevirtv1.VirtualMachineStatus{}
		if f, ok := from.(*kubevirtv1.VirtualMachine); ok {
			o.Status = *f.Status.DeepCopy()
		}
	case *kubevirtv1.VirtualMachineInstance:
		o.Status = kubevirtv1.VirtualMachineInstanceStatus{}
		if f, ok := from.(*kubevirtv1.VirtualMachineInstance); ok {
			o.Status = *f.Status.DeepCopy()
		}
	}
}

func conflict(gvr schema.GroupVersionResource, name string) error {
	return apierrors.NewConflict(gvr.GroupResource(), name, fmt.Errorf("the object has been modified"))
}

// Package ownership keeps the identity of virtual machines with those who may change
// them: only what its owner stands for, made by somebody who may update the owner, can
// name a VirtualMachine or VirtualMachineInstance as its controller.
//
// An instance that a machine controls claims no addresses of its own, and a pod that an
// instance controls stands for its guest. So a forged ownerReference would give away
// another guest's addresses, its name and its endpoints.
//
// In: writes with their user; the registries, to read the owner; the authorizer. Out:
// forbidden, or nothing. It reads what the store has, never a cache.
package ownership

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/core/machine"
)

// Plugin is the admission. The registries are set before the server answers.
type Plugin struct {
	Machines, Instances rest.Getter
	Decides             authorizer.Authorizer
}

var _ admission.ValidationInterface = (*Plugin)(nil)

// Handles implements admission.Interface.
func (*Plugin) Handles(op admission.Operation) bool {
	return op == admission.Create || op == admission.Update
}

// claims are the annotations that hold what a guest is known by.
var claims = []string{machine.AddressesAnnotation, machine.MACAnnotation}

// Validate implements admission.ValidationInterface.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	var kind, plural string
	switch a.GetResource().GroupResource() {
	case corev1.Resource("pods"):
		kind, plural = kubevirtv1.VirtualMachineInstanceGroupVersionKind.Kind, "virtualmachineinstances"
	case schema.GroupResource{Group: kubevirtv1.GroupVersion.Group, Resource: "virtualmachineinstances"}:
		kind, plural = kubevirtv1.VirtualMachineGroupVersionKind.Kind, "virtualmachines"
	default:
		return nil
	}
	now, err := meta.Accessor(a.GetObject())
	if err != nil {
		return nil // a subresource's own kind, such as a Binding: it has no owners to set
	}
	owner, was := controller(now, kind), (*metav1.OwnerReference)(nil)
	if old, err := meta.Accessor(a.GetOldObject()); err == nil && a.GetOperation() == admission.Update {
		was = controller(old, kind)
		if was != nil {
			if err := unchanged(a, now, old); err != nil {
				return err
			}
		}
	}
	if same(owner, was) {
		return nil
	}
	if was != nil {
		if err := p.mayUpdate(ctx, a, plural, was.Name); err != nil {
			return admission.NewForbidden(a, fmt.Errorf("can't be taken from %s %s/%s: %w", kind, a.GetNamespace(), was.Name, err))
		}
	}
	if owner == nil {
		return nil
	}
	err = p.mayUpdate(ctx, a, plural, owner.Name)
	if err == nil {
		err = p.standsFor(ctx, a.GetNamespace(), now, owner)
	}
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("can't be controlled by %s %s/%s: %w", kind, a.GetNamespace(), owner.Name, err))
	}
	return nil
}

func same(a, b *metav1.OwnerReference) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.UID == b.UID && a.Name == b.Name
}

// controller is the controller of obj, if it is of a kind of ours.
func controller(obj metav1.Object, kind string) *metav1.OwnerReference {
	o := metav1.GetControllerOf(obj)
	if o == nil || o.Kind != kind || !strings.HasPrefix(o.APIVersion, kubevirtv1.GroupVersion.Group+"/") {
		return nil
	}
	return o
}

// unchanged lets nobody rewrite what an owned object has of its owner.
func unchanged(a admission.Attributes, now, old metav1.Object) error {
	for _, key := range claims {
		if now.GetAnnotations()[key] != old.GetAnnotations()[key] {
			return admission.NewForbidden(a, fmt.Errorf("the annotation %s is its owner's and can't be changed", key))
		}
	}
	return nil
}

// mayUpdate asks for the right to change the owner: who has it can make the owner's
// children anyway.
func (p *Plugin) mayUpdate(ctx context.Context, a admission.Attributes, plural, name string) error {
	decision, _, err := p.Decides.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: "update", Namespace: a.GetNamespace(), Name: name, ResourceRequest: true,
		APIGroup: kubevirtv1.GroupVersion.Group, APIVersion: kubevirtv1.GroupVersion.Version, Resource: plural,
	})
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("user %q may not update it", a.GetUserInfo().GetName())
}

// standsFor compares the object with its owner as it is.
func (p *Plugin) standsFor(ctx context.Context, namespace string, obj metav1.Object, ref *metav1.OwnerReference) error {
	getter, name := p.Machines, ref.Name // an instance has its machine's name
	if _, ok := obj.(*corev1.Pod); ok {
		getter = p.Instances
	}
	if getter == nil {
		return errors.New("the server is starting")
	}
	found, err := getter.Get(genericrequest.WithNamespace(ctx, namespace), ref.Name, &metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return errors.New("it doesn't exist")
	}
	if err != nil {
		return err
	}
	owner, err := meta.Accessor(found)
	if err != nil {
		return err
	}
	if vmi, ok := found.(*kubevirtv1.VirtualMachineInstance); ok {
		name = machine.PodName(vmi)
	}
	switch {
	case owner.GetUID() != ref.UID:
		return fmt.Errorf("its uid is %s, not %s", owner.GetUID(), ref.UID)
	case obj.GetName() != name:
		return fmt.Errorf("what it controls is named %s", name)
	}
	for _, key := range claims {
		if obj.GetAnnotations()[key] != owner.GetAnnotations()[key] {
			return fmt.Errorf("the annotation %s must be as there", key)
		}
	}
	return nil
}

package apiserver

import (
	"errors"

	"k8s.io/apiserver/pkg/registry/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/apiserver/ownership"
	"portico.dev/portico/internal/apiserver/registry"
)

// readOwners lets the admission of ownerReferences read owners from our own registries.
func readOwners(p *ownership.Plugin, s registry.Set) error {
	machines, ok1 := s[kubevirtv1.GroupVersion]["virtualmachines"].(rest.Getter)
	instances, ok2 := s[kubevirtv1.GroupVersion]["virtualmachineinstances"].(rest.Getter)
	if !ok1 || !ok2 {
		return errors.New("set up the check of owners: VirtualMachines or their instances can't be read")
	}
	p.Machines, p.Instances = machines, instances
	return nil
}

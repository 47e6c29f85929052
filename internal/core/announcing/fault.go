package announcing

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/metallb"
)

// Fault is something that people wrote and that can't be.
type Fault struct {
	Kind, Name, Field string
	Problem           string
}

func (f Fault) Error() string { return f.Kind + " " + f.Name + ": " + f.Field + ": " + f.Problem }

// SelectorFaults names the selectors that can't be read: they match nothing, and people
// should know. They come by the name of their field below spec.
func SelectorFaults(kind, name string, fields map[string][]metav1.LabelSelector) (faults []Fault) {
	for field, selectors := range fields {
		for i := range selectors {
			if _, err := metav1.LabelSelectorAsSelector(&selectors[i]); err != nil {
				faults = append(faults, Fault{kind, name, fmt.Sprintf("spec.%s[%d]", field, i), err.Error()})
			}
		}
	}
	return faults
}

// PoolFaults names the pools that an advertisement names and that aren't there.
func PoolFaults(kind, name string, names []string, pools []*metallb.IPAddressPool) (faults []Fault) {
	for i, pool := range names {
		if !slices.ContainsFunc(pools, func(p *metallb.IPAddressPool) bool { return p.Name == pool }) {
			faults = append(faults, Fault{kind, name, fmt.Sprintf("spec.ipAddressPools[%d]", i), "there is no IPAddressPool " + pool})
		}
	}
	return faults
}

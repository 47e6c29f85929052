package election

import (
	"cmp"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/metallb"
)

const adKind = "L2Advertisement"

// Faults gives what is wrong with the L2Advertisements, by name and field.
func Faults(config *metallb.Config) (faults []announcing.Fault) {
	for _, ad := range config.L2Advertisements {
		faults = append(faults, announcing.PoolFaults(adKind, ad.Name, ad.Spec.IPAddressPools, config.Pools)...)
		faults = append(faults, announcing.SelectorFaults(adKind, ad.Name, map[string][]metav1.LabelSelector{
			"ipAddressPoolSelectors": ad.Spec.IPAddressPoolSelectors,
			"serviceSelectors":       ad.Spec.ServiceSelectors,
			"nodeSelectors":          ad.Spec.NodeSelectors,
		})...)
	}
	slices.SortFunc(faults, func(a, b announcing.Fault) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Field, b.Field))
	})
	return faults
}

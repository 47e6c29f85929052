package election

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/metallb"
)

// LB-07: an L2Advertisement that announces less than it says is named, with the field.
func TestFaults(t *testing.T) {
	bad := []metav1.LabelSelector{{}, {MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "zone", Operator: "Maybe"}}}}
	config := &metallb.Config{
		Pools: []*metallb.IPAddressPool{{ObjectMeta: metav1.ObjectMeta{Name: "lan"}}},
		L2Advertisements: []*metallb.L2Advertisement{
			{ObjectMeta: metav1.ObjectMeta{Name: "good"}, Spec: metallb.L2AdvertisementSpec{IPAddressPools: words("lan")}},
			{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: metallb.L2AdvertisementSpec{IPAddressPools: words("lan", "wan"), NodeSelectors: bad}},
		},
	}
	const want = `[L2Advertisement bad: spec.ipAddressPools[1]: there is no IPAddressPool wan ` +
		`L2Advertisement bad: spec.nodeSelectors[1]: "Maybe" is not a valid label selector operator]`
	if got := fmt.Sprint(Faults(config)); got != want {
		t.Errorf("the faults are %s, not %s", got, want)
	}
}

package figure

import (
	"strings"
	"testing"
)

func TestGoalsArePrintedBesideThePeer(t *testing.T) {
	ours, peers := Rounds{}, Rounds{}
	for _, v := range []float64{3, 1, 2} {
		ours.Add(v, "wait", 10, "ms")
		peers.Add(2*v, "wait", 10, "ms")
	}
	values, spread := map[string]any{}, map[string][2]float64{}
	own, peer := ours.Medians("", values, spread), peers.Medians("peer_", values, spread)
	if own["wait_10_ms"] != 2 || values["peer_wait_10_ms"] != 4.0 || spread["wait_10_ms"] != [2]float64{1, 3} {
		t.Errorf("medians %v, values %v, spread %v", own, values, spread)
	}
	var out strings.Builder
	goals := []Goal{
		{Name: "wait_10_ms", Value: own["wait_10_ms"], Limit: 2},
		{Name: "ratio", Value: 4, Limit: 4, More: true},
	}
	if err := PrintGoals(&out, goals, peer); err != nil {
		t.Fatal(err)
	}
	const want = `
      figure  Portico   peer  goal        
  wait_10_ms    2.000  4.000   < 2  missed
       ratio    4.000      -  >= 4     met
`
	if got := "\n" + out.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

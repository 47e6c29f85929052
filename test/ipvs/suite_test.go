package ipvs

import (
	"cmp"
	"os"
	"testing"
	"time"
)

const (
	ours  = "portico.dev/portico/internal/dataplane/ipvs"
	suite = "portico.dev/portico/test/dataplane"
)

// short are the tests of the suite that show each of the parts: virtual servers by every
// door, what is refused, the end of connections, other protocols.
const short = "^(TestPaths|TestHairpin|TestRefuse|TestGoneBackend|TestSCTP)$"

// wanted gives the tests that PORTICO_TEST_RUN asks for, "short" or a pattern. Without it
// nothing is run: a guest takes a minute, and the cache of results doesn't see what it runs.
func wanted(t *testing.T, short string) (match string) {
	t.Helper()
	switch match = os.Getenv("PORTICO_TEST_RUN"); match {
	case "":
		t.Skip("PORTICO_TEST_RUN=short runs it in a guest")
	case "short":
		match = short
	}
	return match
}

// The package's own tests, which need virtual servers and no network.
func TestPackage(t *testing.T) {
	report(t, runInGuest(t, ours, wanted(t, "."), 10*time.Minute, "PORTICO_LONG="+os.Getenv("PORTICO_LONG")))
}

// DP-21: the suite passes in a kernel that has IPVS.
func TestSuite(t *testing.T) {
	report(t, runInGuest(t, suite, wanted(t, short), 55*time.Minute,
		"PORTICO_TEST_DATAPLANE=ipvs", "PORTICO_TEST_EMULATED=1", "PORTICO_LONG="+os.Getenv("PORTICO_LONG"), "PORTICO_TEST_IPVS_SCHEDULER="+cmp.Or(os.Getenv("PORTICO_TEST_IPVS_SCHEDULER"), "rr")))
}

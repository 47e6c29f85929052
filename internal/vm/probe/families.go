package probe

import (
	"context"
	"time"

	"k8s.io/utils/clock"
)

// familyPatience is how long a guest that answers by its primary address is given to
// answer by the others too: address configuration by DHCPv6 comes some seconds after
// DHCPv4. A guest that never configures them must not wait for ever.
const familyPatience = 10 * time.Second

// AllFamilies joins the checks of a guest's addresses, the primary's first. A guest is
// one endpoint in each family's slices, so it is good only when each of its addresses
// answers; else the first clients of the slower family would meet silence. Once it has
// been good, or patience has run out, the primary address decides alone.
func AllFamilies(clk clock.PassiveClock, checks ...Check) Check {
	if len(checks) == 1 {
		return checks[0]
	}
	var since time.Time // of the primary's first answer
	settled := false
	return func(ctx context.Context) error {
		if err := checks[0](ctx); err != nil || settled {
			return err
		}
		if since.IsZero() {
			since = clk.Now()
		}
		for _, check := range checks[1:] {
			if err := check(ctx); err != nil && clk.Since(since) < familyPatience {
				return err
			}
		}
		settled = true
		return nil
	}
}

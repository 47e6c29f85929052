package tracked

import (
	"fmt"

	"github.com/ti-mo/conntrack"

	"portico.dev/portico/internal/dataplane"
)

// OpenUse opens what tells how much conntrack is used in the network namespace of the calling
// thread, until closeIt is called. counts may be called by several goroutines at once.
func OpenUse() (counts func() (dataplane.Counts, error), closeIt func() error, err error) {
	c, err := conntrack.Dial(nil)
	if err != nil {
		return nil, nil, fmt.Errorf("open conntrack: %w", err)
	}
	return func() (out dataplane.Counts, err error) {
		out.Connections, out.MaxConnections, err = Use(c)
		return out, err
	}, c.Close, nil
}

// Use gives the entries of all programs, and how many there can be.
func Use(c *conntrack.Conn) (entries, most uint64, err error) {
	use, err := c.StatsGlobal()
	if err != nil {
		return 0, 0, fmt.Errorf("ask conntrack for its number of entries: %w", err)
	}
	return uint64(use.Entries), uint64(use.MaxEntries), nil
}

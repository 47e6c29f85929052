package cli

import (
	"sync"

	"portico.dev/portico/internal/routes/ruleset"
)

// hush keeps the keepers of other tables from hearing the data plane, which writes often
// and much: a load of 10,000 Services took the kernel three seconds longer.
type hush struct {
	mu      sync.Mutex // guards the following
	port    uint32     // the data plane's; 0: none
	keepers []*ruleset.Keeper
}

// add has one more keeper ignore the data plane.
func (h *hush) add(k *ruleset.Keeper) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keepers = append(h.keepers, k)
	if h.port == 0 {
		return nil
	}
	return k.Ignore(h.port)
}

// ignore tells the data plane's port.
func (h *hush) ignore(port uint32) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.port = port
	for _, k := range h.keepers {
		if err := k.Ignore(port); err != nil {
			return err
		}
	}
	return nil
}

// unheard runs a change while no keeper listens.
func (h *hush) unheard(change func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range h.keepers {
		next := change
		change = func() error { return k.Unheard(next) }
	}
	return change()
}

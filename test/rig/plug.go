package rig

import "fmt"

// Unplug takes a host's cable out of the LAN's switch: its link keeps its carrier, but
// nobody hears it. plug puts it back.
func (l *LAN) Unplug(t T, h *Host) (plug func()) {
	t.Helper()
	up, err := h.Links.LinkByName(Uplink)
	h.must(t, "find "+Uplink, err)
	port, err := l.sw.Links.LinkByIndex(up.Attrs().ParentIndex) // of a veth: its other end
	h.must(t, "find the switch's port", err)
	h.must(t, "take the port from the bridge", l.sw.Links.LinkSetNoMaster(port))
	return func() {
		t.Helper()
		br, err := l.sw.Links.LinkByName("br")
		h.must(t, "find bridge", err)
		h.must(t, "add the port to the bridge", l.sw.Links.LinkSetMaster(port, br))
	}
}

// SetLink brings a link of the host up or down.
func (h *Host) SetLink(name string, up bool) error {
	if up {
		return h.up(name)
	}
	link, err := h.Links.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return h.Links.LinkSetDown(link)
}

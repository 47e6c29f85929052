package lanprobe

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/mdlayher/ndp"
)

func askND(ctx context.Context, l *link, taken func(netip.Addr, net.HardwareAddr)) error {
	if len(l.six) == 0 {
		return nil
	}
	conn, _, err := ndp.Listen(l.Interface, ndp.LinkLocal)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	send := func(addr netip.Addr) error {
		group, err := ndp.SolicitedNodeMulticast(addr)
		if err != nil {
			return err
		}
		// With our hardware address, or the neighbour would have to ask for it first.
		source := &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: l.HardwareAddr}
		return conn.WriteTo(&ndp.NeighborSolicitation{TargetAddress: addr, Options: []ndp.Option{source}}, nil, group)
	}
	return ask(ctx, l.six, send, conn.SetReadDeadline, func() {
		for {
			message, _, _, err := conn.ReadFrom()
			if err != nil {
				return // the deadline; what can't be read is left out by ndp
			}
			answer, ok := message.(*ndp.NeighborAdvertisement)
			if !ok || !slices.Contains(l.six, answer.TargetAddress) {
				continue
			}
			mac := net.HardwareAddr{} // the option may be missing
			for _, option := range answer.Options {
				if o, ok := option.(*ndp.LinkLayerAddress); ok && o.Direction == ndp.Target {
					mac = o.Addr
				}
			}
			taken(answer.TargetAddress, mac)
		}
	})
}

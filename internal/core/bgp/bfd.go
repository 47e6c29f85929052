package bgp

import (
	"slices"
	"time"

	"portico.dev/portico/internal/core/metallb"
)

const bfdKind = "BFDProfile"

// readBFD finds the profile that a peer names.
func (d *decision) readBFD(name string, c *Config, wrong func(field, format string, args ...any)) {
	if name == "" {
		return
	}
	i := slices.IndexFunc(d.config.BFDProfiles, func(p *metallb.BFDProfile) bool { return p.Name == name })
	if i < 0 {
		wrong("bfdProfile", "there is no BFDProfile %s", name)
		return
	}
	s := &d.config.BFDProfiles[i].Spec
	number := func(field string, value *uint32, preset, lowest, highest uint32) uint32 {
		if value == nil {
			return preset
		}
		if *value < lowest || *value > highest {
			wrong("bfdProfile", "BFDProfile %s: spec.%s: %d isn't from %d to %d", name, field, *value, lowest, highest)
		}
		return *value
	}
	c.BFD = BFD{
		Receive:    time.Duration(number("receiveInterval", s.ReceiveInterval, 300, 10, 60000)) * time.Millisecond,
		Transmit:   time.Duration(number("transmitInterval", s.TransmitInterval, 300, 10, 60000)) * time.Millisecond,
		Multiplier: uint8(number("detectMultiplier", s.DetectMultiplier, 3, 2, 255)),
		Passive:    s.PassiveMode != nil && *s.PassiveMode,
		MinimumTTL: uint8(number("minimumTtl", s.MinimumTTL, 254, 1, 254)),
	}
	if s.EchoMode != nil && *s.EchoMode {
		// The router would have its own packets sent back by our kernel, which proves less
		// than the agent's packets do.
		d.fault(bfdKind, name, "spec.echoMode", "can't be had; the session runs without echo")
	}
}

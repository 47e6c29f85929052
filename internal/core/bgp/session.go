package bgp

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/metallb"
)

const (
	peerKind    = "BGPPeer"
	defaultPort = 179
	// defaultHold and minHold are of RFC 4271, sections 10 and 4.2.
	defaultHold = 90 * time.Second
	minHold     = 3 * time.Second
	// never stands for a hold time of zero, no limit: the longest that OPEN can say.
	never = 65535 * time.Second
	// defaultConnect is shorter than the 120 s of RFC 4271 (section 10), as routers of data
	// centres have it: a router that was away is to be found soon.
	defaultConnect = 10 * time.Second
	// maxPassword is TCP_MD5SIG_MAXKEYLEN of linux/tcp.h.
	maxPassword = 80
)

// chooseRouterID takes the one that a peer's object names; else the node's IPv4 address,
// else one made of its name, so that it stays over restarts.
func (d *decision) chooseRouterID() {
	var chosen string
	for _, peer := range d.config.BGPPeers {
		if peer.Spec.RouterID == "" || !announcing.Matches(peer.Spec.NodeSelectors, d.self.Labels) {
			continue
		}
		id, err := netip.ParseAddr(peer.Spec.RouterID)
		switch {
		case err != nil || !id.Is4() || id.IsUnspecified():
			d.fault(peerKind, peer.Name, "spec.routerID", fmt.Sprintf("%q isn't an IPv4 address other than 0.0.0.0", peer.Spec.RouterID))
		case chosen == "":
			chosen, d.plan.RouterID = peer.Name, id
		case id != d.plan.RouterID:
			d.fault(peerKind, peer.Name, "spec.routerID", fmt.Sprintf(
				"a node has one router ID, and BGPPeer %s says %s, which is used; give both the same or select different nodes", chosen, d.plan.RouterID))
		}
	}
	if chosen == "" {
		d.plan.RouterID = d.address(false)
	}
	if !d.plan.RouterID.IsValid() {
		h := fnv.New32a()
		h.Write([]byte(d.in.Self))
		// Class A keeps it from looking like multicast, and never 0.0.0.0 (RFC 6286).
		d.plan.RouterID = netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, h.Sum32()&0x00ffffff|0x0a000000)))
	}
}

func (d *decision) readSessions() {
	taken := map[netip.Addr]string{}
	for _, peer := range d.config.BGPPeers {
		d.readable(peerKind, peer.Name, map[string][]metav1.LabelSelector{"nodeSelectors": peer.Spec.NodeSelectors})
		if !announcing.Matches(peer.Spec.NodeSelectors, d.self.Labels) {
			continue
		}
		c, ok := d.session(peer)
		if !ok {
			continue
		}
		if other, ok := taken[c.Address]; ok {
			d.fault(peerKind, peer.Name, "spec.peerAddress", fmt.Sprintf("BGPPeer %s has the session with %s from this node; select different nodes", other, c.Address))
			continue
		}
		taken[c.Address] = peer.Name
		d.plan.Sessions = append(d.plan.Sessions, Session{Config: c})
	}
}

// session reads one peer. It is false when there can't be a session.
func (d *decision) session(peer *metallb.BGPPeer) (Config, bool) {
	s, ok := &peer.Spec, true
	wrong := func(field, format string, args ...any) {
		ok = false
		d.fault(peerKind, peer.Name, "spec."+field, fmt.Sprintf(format, args...))
	}
	c := Config{
		Peer: peer.Name, Port: defaultPort, VRF: s.VRF, MultiHop: s.EBGPMultiHop,
		Graceful: s.EnableGracefulRestart, Connect: defaultConnect,
	}
	if s.Port != 0 {
		c.Port = s.Port
	}
	c.Address = readAddress(s.Address)
	switch {
	case s.Interface != "":
		wrong("interface", "sessions without addresses (unnumbered) can't be made; give peerAddress")
	case s.Address == "":
		wrong("peerAddress", "is missing")
	case !c.Address.IsValid() || c.Address.IsUnspecified() || c.Address.IsMulticast():
		wrong("peerAddress", "%q isn't the address of a router", s.Address)
	}
	if s.SourceAddress != "" {
		if c.Source = readAddress(s.SourceAddress); !c.Source.IsValid() {
			wrong("sourceAddress", "%q isn't an address", s.SourceAddress)
		} else if c.Address.IsValid() && c.Source.Is6() != c.Address.Is6() {
			wrong("sourceAddress", "%s and peerAddress %s are of different families", c.Source, c.Address)
		}
	}
	readASNs(s, &c, wrong)
	readTimers(s, &c, wrong)
	if s.DisableMP && s.DualStackAddressFamily {
		wrong("disableMP", "contradicts dualStackAddressFamily; remove one of them")
	}
	c.IPv4, c.IPv6 = c.Address.Is4() || s.DualStackAddressFamily, c.Address.Is6() || s.DualStackAddressFamily
	switch c.Password, c.Secret = s.Password, s.PasswordSecret; {
	case s.Password != "" && s.PasswordSecret.Name != "":
		wrong("password", "and passwordSecret exclude each other")
	case len(s.Password) > maxPassword:
		wrong("password", "is longer than the %d bytes that TCP MD5 can use", maxPassword)
	case c.Secret.Name == "":
		c.Secret = metallb.SecretReference{}
	case c.Secret.Namespace == "":
		c.Secret.Namespace = peer.Namespace
	}
	d.readBFD(s.BFDProfile, &c, wrong)
	return c, ok
}

// readAddress is invalid for what isn't an address. A mapped one is IPv4.
func readAddress(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}

func readASNs(s *metallb.BGPPeerSpec, c *Config, wrong func(field, format string, args ...any)) {
	c.LocalASN, c.RemoteASN = s.MyASN, s.ASN
	if s.LocalASN != 0 {
		c.LocalASN = s.LocalASN
	}
	switch {
	case s.MyASN == 0:
		wrong("myASN", "is missing")
	case s.ASN != 0 && s.DynamicASN != "":
		wrong("dynamicASN", "and peerASN exclude each other")
	case s.ASN == 0 && s.DynamicASN == "":
		wrong("peerASN", "is missing; give it or dynamicASN")
	case s.DynamicASN == metallb.InternalASN:
		c.RemoteASN = s.MyASN
	case s.DynamicASN != "" && s.DynamicASN != metallb.ExternalASN:
		wrong("dynamicASN", "%q is neither internal nor external", s.DynamicASN)
	}
	// RFC 7705 is for sessions with other ASes.
	if s.LocalASN != 0 && c.RemoteASN == s.MyASN {
		wrong("localASN", "stands in for myASN towards another AS, and the peer is in myASN %d itself", s.MyASN)
	} else if s.LocalASN != 0 && s.LocalASN == s.ASN {
		wrong("localASN", "is the peer's own AS %d", s.ASN)
	}
	if s.EBGPMultiHop && c.RemoteASN == c.LocalASN && c.LocalASN != 0 {
		wrong("ebgpMultiHop", "is for peers of another AS, and this one is in myASN %d", c.LocalASN)
	}
}

func readTimers(s *metallb.BGPPeerSpec, c *Config, wrong func(field, format string, args ...any)) {
	c.Hold = defaultHold
	if s.HoldTime != nil {
		c.Hold = s.HoldTime.Round(time.Second)
	}
	switch {
	case c.Hold == 0:
		c.Hold = never
	case c.Hold < minHold:
		wrong("holdTime", "%s is shorter than the %s of RFC 4271; 0s is none", s.HoldTime.Duration, minHold)
	case c.Hold > never:
		wrong("holdTime", "%s is longer than %s", s.HoldTime.Duration, never)
	}
	c.Keepalive = max(c.Hold/3, time.Second).Truncate(time.Second)
	if s.KeepaliveTime != nil && s.KeepaliveTime.Duration != 0 {
		c.Keepalive = max(s.KeepaliveTime.Round(time.Second), time.Second)
		if s.KeepaliveTime.Duration < 0 || c.Keepalive >= c.Hold {
			wrong("keepaliveTime", "%s isn't below holdTime %s", s.KeepaliveTime.Duration, c.Hold)
		}
	}
	if s.ConnectTime != nil {
		c.Connect = s.ConnectTime.Round(time.Second)
		if c.Connect < time.Second || c.Connect > never {
			wrong("connectTime", "%s isn't from 1s to %s", s.ConnectTime.Duration, never)
		}
	}
}

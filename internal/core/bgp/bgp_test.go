package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/test/story"
)

// TestStories reads objects as users write them and compares the plan of one node. Each
// story names the behaviours it proves in its first line.
func TestStories(t *testing.T) { story.Run(t, "testdata", tell) }

// service is how a story writes one: its addresses with their pools, and the nodes that
// have a ready endpoint of each family.
type service struct {
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels"`
	Addresses map[string]string `json:"addresses"`
	Local     bool              `json:"local"`
	Ready4    []string          `json:"ready4"`
	Ready6    []string          `json:"ready6"`
}

func tell(t *testing.T, files []txtar.File) map[string]string {
	in := announcing.Input{Config: &metallb.Config{}, Self: "node-a"}
	var services []service
	for _, f := range files {
		switch kind, _, _ := strings.Cut(f.Name, "."); strings.TrimRight(kind, "0123456789") {
		case "nodes":
			story.Read(t, f, &in.Nodes)
		case "services":
			story.Read(t, f, &services)
		case "pool":
			in.Config.Pools = append(in.Config.Pools, read[metallb.IPAddressPool](t, f))
		case "peer":
			in.Config.BGPPeers = append(in.Config.BGPPeers, read[metallb.BGPPeer](t, f))
		case "advertisement":
			in.Config.BGPAdvertisements = append(in.Config.BGPAdvertisements, read[metallb.BGPAdvertisement](t, f))
		case "bfd":
			in.Config.BFDProfiles = append(in.Config.BFDProfiles, read[metallb.BFDProfile](t, f))
		case "community":
			in.Config.Communities = append(in.Config.Communities, read[metallb.Community](t, f))
		case "sessions", "left", "faults", "peers":
		default:
			t.Fatalf("don't know file %s", f.Name)
		}
	}
	for _, s := range services {
		in.Services = append(in.Services, s.value(in.Config.Pools))
	}
	return format(Decide(in))
}

func read[T any](t *testing.T, f txtar.File) *T {
	v := new(T)
	story.Read(t, f, v)
	return v
}

func (s *service) value(pools []*metallb.IPAddressPool) announcing.Service {
	v := announcing.Service{Labels: s.Labels, View: catalog.View{Service: &catalog.Service{
		Name: types.NamespacedName{Namespace: "default", Name: s.Name}, ExternalLocal: s.Local,
	}}}
	for _, text := range slices.Sorted(func(yield func(string) bool) {
		for a := range s.Addresses {
			if !yield(a) {
				return
			}
		}
	}) {
		address := announcing.Address{Addr: netip.MustParseAddr(text)}
		if i := slices.IndexFunc(pools, func(p *metallb.IPAddressPool) bool { return p.Name == s.Addresses[text] }); i >= 0 {
			address.Pool = pools[i]
		}
		v.Addresses = append(v.Addresses, address)
	}
	for i, nodes := range [][]string{s.Ready4, s.Ready6} {
		slice := &catalog.Slice{IPv6: i == 1}
		for _, n := range nodes {
			slice.Endpoints = append(slice.Endpoints, catalog.Endpoint{Node: n, Ready: true})
		}
		v.Slices = append(v.Slices, slice)
	}
	return v
}

// format prints a plan.
func format(p Plan) map[string]string {
	var sessions, left, faults, peers strings.Builder
	fmt.Fprintf(&sessions, "router ID %s\n", p.RouterID)
	for _, s := range p.Sessions {
		fmt.Fprintln(&sessions, formatConfig(s.Config))
		for _, path := range s.Paths {
			fmt.Fprintln(&sessions, "  "+formatPath(path))
		}
	}
	for _, l := range p.Left {
		fmt.Fprintf(&left, "%s %s: %s\n", l.Service, l.Address, l.Reason)
	}
	for _, f := range p.Faults {
		fmt.Fprintln(&faults, f)
	}
	of := p.Peers()
	for _, name := range slices.SortedFunc(func(yield func(types.NamespacedName) bool) {
		for n := range of {
			if !yield(n) {
				return
			}
		}
	}, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) }) {
		fmt.Fprintln(&peers, name, strings.Join(of[name], " "))
	}
	return map[string]string{"sessions": sessions.String(), "left": left.String(), "faults": faults.String(), "peers": peers.String()}
}

func formatConfig(c Config) string {
	s := fmt.Sprintf("%s: AS %d with AS %d at %s", c.Peer, c.LocalASN, c.RemoteASN, netip.AddrPortFrom(c.Address, c.Port))
	for _, part := range []struct {
		text string
		said bool
	}{
		{" from " + c.Source.String(), c.Source.IsValid()},
		{" in VRF " + c.VRF, c.VRF != ""},
		{", IPv4", c.IPv4},
		{", IPv6", c.IPv6},
		{fmt.Sprintf(", hold %s keepalive %s connect %s", c.Hold, c.Keepalive, c.Connect), true},
		{", several hops", c.MultiHop},
		{", graceful restart", c.Graceful},
		{", password", c.Password != ""},
		{", password in " + c.Secret.Namespace + "/" + c.Secret.Name, c.Secret.Name != ""},
		{fmt.Sprintf(", BFD %+v", c.BFD), c.BFD.Enabled()},
	} {
		if part.said {
			s += part.text
		}
	}
	return s
}

func formatPath(p Path) string {
	s := p.Prefix.String()
	if p.NextHop.IsValid() {
		s += " via " + p.NextHop.String()
	}
	if p.LocalPref != 0 {
		s += fmt.Sprintf(" preference %d", p.LocalPref)
	}
	for _, c := range p.Communities {
		s += " " + c.String()
	}
	for _, l := range p.Large {
		s += " " + l.String()
	}
	return s
}

// FuzzCommunity: what is read is written the same way.
func FuzzCommunity(f *testing.F) {
	for _, seed := range []string{"65535:65282", "large:1:2:3", "0:0", "large:4294967295:0:1", "65536:1", "a", "large:1:2", "1:2:3:4", "+1:2", ":"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var c, again communities
		if c.add(text) != nil {
			return
		}
		written := ""
		if len(c.plain) == 1 && len(c.large) == 0 {
			written = c.plain[0].String()
		} else if len(c.plain) == 0 && len(c.large) == 1 {
			written = "large:" + c.large[0].String()
		}
		if err := again.add(written); err != nil || !slices.Equal(c.plain, again.plain) || !slices.Equal(c.large, again.large) {
			t.Errorf("%q became %q, which is read as %v (%v)", text, written, again, err)
		}
	})
}

// FuzzRange: a range has whole prefixes exactly where counting says so.
func FuzzRange(f *testing.F) {
	for _, seed := range []string{"192.0.2.10-192.0.2.40", "192.0.2.0/24", "2001:db8::1-2001:db8::ff", "0.0.0.0/0", "255.255.255.250-255.255.255.255", "::/0", "1.1.1.2-1.1.1.1", "::1-1.1.1.1"} {
		f.Add(seed, 28)
	}
	f.Fuzz(func(t *testing.T, text string, length int) {
		from, to, ok := readRange(text)
		if !ok || length < 1 || length > from.BitLen() {
			return
		}
		if to.Less(from) || from.Is6() != to.Is6() {
			t.Fatalf("%q is %s-%s", text, from, to)
		}
		want := false
		for p, n := netip.PrefixFrom(from, length).Masked(), 0; n < 3 && p.Addr().IsValid() && !to.Less(p.Addr()); n++ {
			if !p.Addr().Less(from) && !to.Less(last(p)) {
				want = true
			}
			p = netip.PrefixFrom(last(p).Next(), length)
		}
		if got := hasWhole(from, to, length); got != want {
			t.Errorf("a /%d in %s-%s: %v, counting says %v", length, from, to, got, want)
		}
	})
}

package announce

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/test/journal"
	"portico.dev/portico/test/rig"
)

const (
	port       = 80
	clusterKey = "a key of thirty-two bytes for it"
)

var (
	workloads = prefixes("10.244.0.0/16", "10.245.0.0/16", "fd00:10:244::/56", "fd00:10:245::/64")
	services  = prefixes("10.96.0.0/12", "fd00:10:96::/112")
	vip4      = netip.MustParseAddr("192.0.2.200")
	vip6      = netip.MustParseAddr("2001:db8::200")
)

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// world is three nodes and a client on a LAN.
type world struct {
	t      *testing.T
	lan    *rig.LAN
	client *rig.Host
	nodes  map[string]*node
	said   journal.Log // of the agents, for a test that fails and for those that look for a word
}

type node struct {
	*rig.Node
	settings settings
	agent    *exec.Cmd
	ended    chan error
}

var names = []string{"a", "b", "c"}

// newWorld makes all but the agents.
func newWorld(t *testing.T, vips ...netip.Addr) *world {
	t.Helper()
	rig.Need(t)
	w := &world{t: t, lan: rig.NewLAN(t), client: rig.NewHost(t, "client"), nodes: map[string]*node{}}
	w.lan.Connect(t, w.client, prefixes("192.0.2.9/24", "2001:db8::9/64")...)
	var all []announcing.Node
	for i, name := range names {
		at := []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1))}
		all = append(all, announcing.Node{Name: name, Addresses: at})
	}
	for i, name := range names {
		n := &node{Node: rig.NewNode(t, rig.NodeConfig{
			Name: name, Services: services, Pods: prefixes(fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("fd00:10:244:%d::/64", i)),
		})}
		w.lan.Connect(t, n.Host, netip.PrefixFrom(all[i].Addresses[0], 24), netip.PrefixFrom(all[i].Addresses[1], 64))
		guest := []netip.Addr{netip.AddrFrom4([4]byte{10, 245, 0, byte(i + 2)}), netip.MustParseAddr(fmt.Sprintf("fd00:10:245::%d", i+2))}
		g := n.Guest(t, "guest-"+name, guest...)
		for _, a := range guest {
			g.ServeUDP(t, netip.AddrPortFrom(a, port))
		}
		n.settings = settings{Self: name, Nodes: all, Backend: guest, Store: filepath.Join(t.TempDir(), name+".json"), Key: clusterKey, VIPs: vips}
		w.nodes[name] = n
	}
	t.Cleanup(func() {
		for _, n := range w.nodes {
			n.kill()
		}
		if t.Failed() {
			t.Log(w.said.String())
		}
	})
	return w
}

// start runs the agents of nodes.
func (w *world) start(names ...string) {
	w.t.Helper()
	for _, name := range names {
		n := w.nodes[name]
		text, err := json.Marshal(n.settings)
		if err != nil {
			w.t.Fatal(err)
		}
		n.agent = exec.Command("/proc/self/exe", "-test.run=^$")
		n.agent.Env = append(os.Environ(), asNode+"="+string(text))
		n.agent.Stderr = &w.said
		n.agent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := n.Do(n.agent.Start); err != nil {
			w.t.Fatal(err)
		}
		n.ended = make(chan error, 1)
		go func() { n.ended <- n.agent.Wait() }()
	}
}

// kill ends an agent without a word.
func (n *node) kill() {
	if n.agent == nil {
		return
	}
	n.signal(syscall.SIGKILL)
	n.signal(syscall.SIGCONT)
	<-n.ended
	n.agent = nil
}

func (n *node) signal(s syscall.Signal) {
	n.agent.Process.Signal(s) //nolint:errcheck // it may have ended
}

// stop ends an agent as a service manager does.
func (w *world) stop(name string) {
	w.t.Helper()
	n := w.nodes[name]
	n.signal(syscall.SIGTERM)
	select {
	case err := <-n.ended:
		if err != nil {
			w.t.Errorf("agent %s: %v", name, err)
		}
		n.agent = nil
	case <-time.After(20 * time.Second):
		w.t.Errorf("agent %s doesn't stop", name)
		n.kill()
	}
}

// answer is one that the client got.
type answer struct {
	at   time.Time
	from string // the node
}

// onTheWay is how long answers may be on their way on a busy machine.
const onTheWay = time.Second

// stream is a client that sends every 5 ms.
type stream struct {
	w    *world
	conn net.Conn
	stop chan struct{}
	// sending ends with stop, receiving with the connection.
	sending, receiving sync.WaitGroup

	mu      sync.Mutex // guards the following
	sent    int
	answers []answer
}

// send begins to send to a load-balancer address.
func (w *world) send(vip netip.Addr) *stream {
	w.t.Helper()
	c, err := w.client.Dial("udp", netip.AddrPort{}, netip.AddrPortFrom(vip, port), time.Second)
	if err != nil {
		w.t.Fatal(err)
	}
	s := &stream{w: w, conn: c, stop: make(chan struct{})}
	s.sending.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
				s.mu.Lock()
				s.sent++
				s.mu.Unlock()
				c.Write([]byte("?")) //nolint:errcheck // an error is a lost one
			}
		}
	})
	s.receiving.Go(s.receive)
	w.t.Cleanup(s.end)
	return s
}

func (s *stream) receive() {
	buffer := make([]byte, 512)
	for {
		n, err := s.conn.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error
		}
		server, _, _ := strings.Cut(string(buffer[:n]), " ")
		at, err := netip.ParseAddrPort(server)
		if err != nil {
			continue
		}
		s.mu.Lock()
		s.answers = append(s.answers, answer{time.Now(), s.w.owner(at.Addr())})
		s.mu.Unlock()
	}
}

// owner gives the node of a guest.
func (w *world) owner(guest netip.Addr) string {
	for name, n := range w.nodes {
		if slices.Contains(n.settings.Backend, guest) {
			return name
		}
	}
	return ""
}

func (s *stream) end() {
	select {
	case <-s.stop:
		return
	default:
	}
	close(s.stop)
	s.sending.Wait()
	for end := time.Now().Add(onTheWay); s.lost() > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	s.conn.SetReadDeadline(time.Now()) //nolint:errcheck // a closed one is ended too
	s.conn.Close()
	s.receiving.Wait()
}

// from waits until a node of those wanted answers steadily, and gives which.
func (s *stream) from(wanted ...string) string {
	s.w.t.Helper()
	const steady = 20
	deadline := time.Now().Add(15 * time.Second)
	for time.Now().Before(deadline) {
		s.mu.Lock()
		last := s.answers[max(len(s.answers)-steady, 0):]
		s.mu.Unlock()
		if len(last) == steady && slices.Contains(wanted, last[0].from) &&
			!slices.ContainsFunc(last, func(a answer) bool { return a.from != last[0].from }) {
			return last[0].from
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.w.t.Fatalf("none of %v answers", wanted)
	return ""
}

// gap gives the longest time without an answer since a moment.
func (s *stream) gap(since time.Time) (longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := since
	for _, a := range s.answers {
		if a.at.Before(since) {
			continue
		}
		longest = max(longest, a.at.Sub(last))
		last = a.at
	}
	return longest
}

// lost gives how many requests had no answer; the stream has ended.
func (s *stream) lost() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent - len(s.answers)
}

func others(name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}

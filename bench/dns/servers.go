package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"portico.dev/portico/bench/process"
)

// subject is a server that is measured.
type subject struct {
	*process.Process
	port string // on loopback
}

// starter starts a server that watches the API.
type starter func(ctx context.Context, a *api, dir, port string) (*process.Process, error)

// start runs a server until it answers for the last Service. It tries again where
// another process took the port meanwhile.
func start(ctx context.Context, a *api, how starter) (*subject, error) {
	var err error
	for range 3 {
		var ports []string
		if ports, err = process.FreePorts(1); err != nil {
			return nil, err
		}
		s := &subject{port: ports[0]}
		if s.Process, err = how(ctx, a, a.dir, s.port); err != nil {
			return nil, err
		}
		err = s.Wait(ctx, startPatience, func(ctx context.Context) error {
			n, err := s.answers(ctx, serviceName(a.size-1))
			if err == nil && n == 0 {
				err = errors.New("the last Service has no address yet")
			}
			return err
		})
		if err == nil {
			return s, nil
		}
		s.Stop()
		if !errors.Is(err, process.ErrEnded) {
			break
		}
	}
	return nil, err
}

// settle waits until the server has done what its start left it to do.
func (s *subject) settle(ctx context.Context, look time.Duration) error {
	_, err := process.Settle(ctx, look, s.Process)
	return err
}

func (p *plan) startPortico(_ context.Context, a *api, dir, port string) (*process.Process, error) {
	return process.Launch(dir, "portico", p.Portico, "agent", "--only", "dns", "--kubeconfig", a.tap.kubeconfig,
		"--data-dir", filepath.Join(dir, "agent"), "--dns-listen", "127.0.0.1:"+port)
}

// corefile is what kubeadm installs, which has no cache for the cluster's own names,
// without the plugins that only cost here: metrics, the shuffling of addresses, the
// search for loops, and forwarding, for which nobody asks.
const corefile = `.:%s {
    bind 127.0.0.1
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig %s tap
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    cache 30 {
        disable success cluster.local
        disable denial cluster.local
    }
}
`

func (p *plan) startCoreDNS(_ context.Context, a *api, dir, port string) (*process.Process, error) {
	file := filepath.Join(dir, "Corefile")
	if err := os.WriteFile(file, fmt.Appendf(nil, corefile, port, a.tap.kubeconfig), 0o600); err != nil {
		return nil, fmt.Errorf("write CoreDNS's configuration: %w", err)
	}
	return process.Launch(dir, "coredns", p.coredns, "-conf", file)
}

// answers asks once for the addresses of a name, and says how many there are.
func (s *subject) answers(ctx context.Context, name string) (int, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", "127.0.0.1:"+s.port)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	question, err := pack(name)
	if err != nil {
		return 0, err
	}
	return ask(conn, question, make([]byte, 1500))
}

func pack(name string) ([]byte, error) {
	parsed, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", name, err)
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 1, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: parsed, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	return m.Pack()
}

// ask returns how many answers came; none for a name that doesn't exist.
func ask(conn net.Conn, question, buffer []byte) (int, error) {
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return 0, err
	}
	if _, err := conn.Write(question); err != nil {
		return 0, err
	}
	n, err := conn.Read(buffer)
	if err != nil {
		return 0, err
	}
	const head, answers = 12, 6
	if n < head {
		return 0, fmt.Errorf("an answer of %d bytes", n)
	}
	return int(buffer[answers])<<8 | int(buffer[answers+1]), nil
}

// echoCommand makes this program the one that sends back what it gets.
const echoCommand = "echo"

func startEcho(dir string) (*subject, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	ports, err := process.FreePorts(1)
	if err != nil {
		return nil, err
	}
	s := &subject{port: ports[0]}
	s.Process, err = process.Launch(dir, "echo", self, echoCommand, "127.0.0.1:"+s.port)
	return s, err
}

// echo is the least that a DNS server in Go can do by the standard library: read,
// set the bit that makes a question an answer, write.
func echo(ctx context.Context, address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	defer group.Wait()
	defer conn.Close()
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			buffer := make([]byte, 4096)
			for {
				n, from, err := conn.ReadFromUDPAddrPort(buffer)
				if err != nil {
					return
				}
				if n > 2 {
					buffer[2] |= 1 << 7
				}
				_, _ = conn.WriteToUDPAddrPort(buffer[:n], from)
			}
		})
	}
	<-ctx.Done()
	return nil
}

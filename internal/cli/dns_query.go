package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"portico.dev/portico/internal/routes"
)

const (
	// queryTimeout is a resolver's patience (resolv.conf(5), timeout).
	queryTimeout = 5 * time.Second
	// podNdots is the option that Kubernetes gives pods: a name with fewer dots is
	// looked for in the search path first.
	podNdots = 5
	// querySize is what we take by UDP (DNS flag day 2020).
	querySize = 1232
)

// dnsQuery is one run of `portico dns query`.
type dnsQuery struct {
	server, namespace, domain string
	tcp                       bool
	out                       io.Writer
}

func newDNSQuery() *cobra.Command {
	q := &dnsQuery{}
	cmd := &cobra.Command{
		Use:   "query NAME [TYPE]",
		Short: "Ask this node's DNS server for a name",
		Long: `Ask this node's DNS server for a name, and print who answered, how long that took,
the code and the records. Without a TYPE it asks for A and AAAA, for an IP address for
its name. With --namespace the name is looked for as a pod of that namespace does: in
the search path first. The exit code is 1 when there is no record.`,
		Example: `  portico dns query web.default.svc.cluster.local
  portico dns query _http._tcp.web.default.svc.cluster.local SRV
  portico dns query web -n default
  portico dns query 10.96.0.10
  portico dns query example.com MX --server 10.244.0.1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 2 {
				return fmt.Errorf("%q is too much; write `portico dns query NAME [TYPE]`", args[2])
			}
			return oneArgument("NAME")(cmd, args[:min(1, len(args))])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			q.out = cmd.OutOrStdout()
			return q.run(cmd.Context(), args[0], args[1:]...)
		},
	}
	cmd.Flags().StringVar(&q.server, "server", "", "`address` of the server, with or without a port (default: this node's)")
	cmd.Flags().StringVarP(&q.namespace, "namespace", "n", "", "`namespace` whose search path is used")
	cmd.Flags().StringVar(&q.domain, "cluster-domain", "cluster.local", "DNS `domain` of Services")
	cmd.Flags().BoolVar(&q.tcp, "tcp", false, "ask by TCP")
	return cmd
}

func (q *dnsQuery) run(ctx context.Context, name string, typ ...string) error {
	server, whose, err := q.whom()
	if err != nil {
		return err
	}
	questions, err := q.questions(name, typ)
	if err != nil {
		return err
	}
	for i, name := range q.candidates(questions[0].Name, strings.HasSuffix(name, ".")) {
		found := false
		for _, question := range questions {
			question.Name = name
			reply, took, err := q.ask(ctx, server, question)
			if err != nil {
				return fmt.Errorf("%s (%s) doesn't answer: %w; is `portico up` running here? Another server can be named with --server", server, whose, err)
			}
			if i == 0 && question.Qtype == questions[0].Qtype {
				fmt.Fprintf(q.out, "Server  %s, %s\n", server, whose)
			}
			if err := q.print(question, reply, took); err != nil {
				return err
			}
			found = found || len(reply.Answer) > 0
		}
		if found {
			return nil
		}
	}
	return exitError(1)
}

// whom finds the server to ask: the one that is named, or this node's.
func (q *dnsQuery) whom() (server netip.AddrPort, whose string, err error) {
	if q.server != "" {
		named, err := parseServers("--server", q.server)
		if err != nil {
			return server, "", err
		}
		if len(named) != 1 {
			return server, "", fmt.Errorf("--server %q names %d servers; give one", q.server, len(named))
		}
		return named[0], "as asked for", nil
	}
	if link, err := net.InterfaceByName(routes.Bridge); err == nil {
		addrs, err := link.Addrs()
		if err != nil {
			return server, "", fmt.Errorf("read the addresses of %s: %w", routes.Bridge, err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
				return netip.AddrPortFrom(p.Addr(), dnsPort), "this node's at " + routes.Bridge, nil
			}
		}
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort), "loopback, as this host has no " + routes.Bridge, nil
}

// questions gives what is to be asked, under the name as it was written.
func (q *dnsQuery) questions(name string, typ []string) ([]dns.Question, error) {
	if a, err := netip.ParseAddr(name); err == nil && len(typ) == 0 {
		reverse, err := dns.ReverseAddr(a.WithZone("").String())
		return []dns.Question{{Name: reverse, Qtype: dns.TypePTR, Qclass: dns.ClassINET}}, err
	}
	if _, ok := dns.IsDomainName(name); !ok || name == "" {
		return nil, fmt.Errorf("%q is no domain name: labels have 1 to 63 bytes, the whole at most 253", name)
	}
	types := []uint16{dns.TypeA, dns.TypeAAAA}
	if len(typ) > 0 {
		t, ok := dns.StringToType[strings.ToUpper(typ[0])]
		if !ok {
			return nil, fmt.Errorf("%q is no type of records; write one like A, AAAA, SRV, PTR, TXT or ANY", typ[0])
		}
		types = []uint16{t}
	}
	var out []dns.Question
	for _, t := range types {
		out = append(out, dns.Question{Name: dns.Fqdn(name), Qtype: t, Qclass: dns.ClassINET})
	}
	return out, nil
}

// candidates are the names that a pod's resolver would ask for, in its order.
func (q *dnsQuery) candidates(name string, whole bool) (out []string) {
	if q.namespace == "" || whole || strings.HasSuffix(name, ".arpa.") {
		return []string{name}
	}
	for _, suffix := range []string{q.namespace + ".svc." + q.domain, "svc." + q.domain, q.domain} {
		out = append(out, name+dns.Fqdn(suffix))
	}
	if strings.Count(name, ".")-1 >= podNdots {
		return append([]string{name}, out...)
	}
	return append(out, name)
}

// ask asks again by TCP where the answer doesn't fit, as resolvers do.
func (q *dnsQuery) ask(ctx context.Context, server netip.AddrPort, question dns.Question) (*dns.Msg, time.Duration, error) {
	m := new(dns.Msg)
	m.Id, m.RecursionDesired, m.Question = dns.Id(), true, []dns.Question{question}
	m.SetEdns0(querySize, false)
	network := "udp"
	if q.tcp {
		network = "tcp"
	}
	client := &dns.Client{Net: network, Timeout: queryTimeout, UDPSize: querySize}
	reply, took, err := client.ExchangeContext(ctx, m, server.String())
	if err == nil && reply.Truncated && !q.tcp {
		client.Net = "tcp"
		reply, took, err = client.ExchangeContext(ctx, m, server.String())
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err // without the addresses, which are said
	}
	return reply, took, err
}

func (q *dnsQuery) print(question dns.Question, m *dns.Msg, took time.Duration) error {
	code := dns.RcodeToString[m.Rcode]
	if m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0 {
		code += ", the name exists without such a record"
	}
	if m.Authoritative {
		code += ", from the cluster's own records"
	}
	fmt.Fprintf(q.out, "%s %s  %s, %s\n", question.Name, dns.TypeToString[question.Qtype], code, took.Round(time.Microsecond))
	w := tabwriter.NewWriter(q.out, 0, 0, 2, ' ', 0)
	for _, rr := range m.Answer {
		h := rr.Header()
		fmt.Fprintf(w, "  %s\t%d\t%s\t%s\n", h.Name, h.Ttl, dns.TypeToString[h.Rrtype], strings.TrimPrefix(rr.String(), h.String()))
	}
	return w.Flush()
}

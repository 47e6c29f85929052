package l2

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"portico.dev/portico/internal/core/election"
)

// Report is what a node knows of every announced address.
type Report struct {
	Node string `json:"node"`
	// Joined: it has heard its peers, or waited long enough.
	Joined    bool            `json:"joined"`
	Peers     []ReportPeer    `json:"peers"`
	Addresses []ReportAddress `json:"addresses"`
}

// ReportPeer is another node.
type ReportPeer struct {
	Name  string `json:"name"`
	Alive bool   `json:"alive"`
	Ready bool   `json:"ready"`
	// SilentFor is in milliseconds; negative: it was never heard.
	SilentFor int64    `json:"silentForMs"`
	Links     []string `json:"links"`
}

// ReportAddress is one address.
type ReportAddress struct {
	Address    netip.Addr        `json:"address"`
	Services   []string          `json:"services"` // NAMESPACE/NAME
	Holder     string            `json:"holder,omitempty"`
	Why        string            `json:"why"`
	Links      []string          `json:"links,omitempty"` // where the node that reports announces it
	Since      *time.Time        `json:"since,omitempty"`
	Took       int64             `json:"tookMs"` // the last take-over
	Moves      uint64            `json:"moves"`  // its term
	Candidates []string          `json:"candidates"`
	Reserve    []string          `json:"reserve,omitempty"`
	LeftOut    map[string]string `json:"leftOut,omitempty"`

	// Claims let a reader play the election through.
	Claims []election.Claim `json:"claims,omitempty"`
}

// Report tells all.
func (a *Announcer) Report() Report {
	view, now := a.config.Mesh.View(), a.config.Mesh.Now()
	r := Report{Node: a.config.Self, Joined: view.Joined, Peers: []ReportPeer{}, Addresses: []ReportAddress{}}
	for name, p := range view.Peers {
		silent := (now - p.Heard).Milliseconds()
		if p.Heard < 0 {
			silent = -1
		}
		r.Peers = append(r.Peers, ReportPeer{Name: name, Alive: p.Alive, Ready: p.Word.Ready, SilentFor: silent, Links: linkNames(p.Word.Links)})
	}
	slices.SortFunc(r.Peers, func(a, b ReportPeer) int { return strings.Compare(a.Name, b.Name) })
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.contests {
		r.Addresses = append(r.Addresses, a.report(&a.contests[i]))
	}
	return r
}

// report describes one address. mu is held.
func (a *Announcer) report(c *election.Contest) ReportAddress {
	out := ReportAddress{
		Address: c.Address, Candidates: slices.Clone(c.Candidates), Reserve: slices.Clone(c.Reserve), LeftOut: c.LeftOut,
	}
	for _, s := range c.Services {
		out.Services = append(out.Services, s.Name.String())
	}
	b := election.Ballot{Address: c.Address, Candidates: c.Candidates, Reserve: c.Reserve}
	all := a.others[c.Address]
	if h := a.mine[c.Address]; h != nil {
		all = append(slices.Clone(all), seen{a.config.Self, true, h.Claim})
	}
	for _, s := range all {
		if s.alive {
			b.Claims = append(b.Claims, s.claim.Of(s.node))
		}
	}
	out.Claims = b.Claims
	d := election.Decide(b)
	out.Why = string(d.Why)
	if d.Why == election.Elected { // it hasn't answered yet
		return out
	}
	out.Holder = d.Holder
	for _, s := range all {
		if s.alive && s.node == d.Holder {
			since := s.claim.Since
			out.Since, out.Took, out.Moves = &since, s.claim.Took.Milliseconds(), s.claim.Term
		}
	}
	if h := a.mine[c.Address]; h != nil && d.Holder == a.config.Self {
		out.Links, out.Why = h.links, h.why
	}
	return out
}

// counters are for metrics.
type counters struct {
	requests, solicitations, announcements, conflicts atomic.Uint64
	fresh, lost, planned, released                    atomic.Uint64
	// took is how long addresses of lost nodes were without one, since their last greeting.
	took prometheus.Histogram
}

// newCounters has buckets around the time that a loss takes to be known.
func newCounters() counters {
	return counters{took: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "portico_announce_layer2_takeover_seconds", Help: "Time from the last greeting of a lost node to the take-over of an address that it had.",
		Buckets: []float64{0.2, 0.3, 0.4, 0.5, 0.7, 1, 2, 5},
	})}
}

// taken counts a take-over by its kind.
func (c *counters) taken(h *holding) {
	switch {
	case h.from == "":
		c.fresh.Add(1)
	case h.Took > 0:
		c.lost.Add(1)
		c.took.Observe(h.Took.Seconds())
	default:
		c.planned.Add(1)
	}
}

// Collect implements prometheus.Collector.
func (a *Announcer) Collect(out chan<- prometheus.Metric) {
	view := a.config.Mesh.View()
	alive := 0
	for _, p := range view.Peers {
		if p.Alive {
			alive++
		}
	}
	a.mu.Lock()
	held := len(a.mine)
	a.mu.Unlock()
	m := a.config.Mesh.Counts()
	gauge := func(d *prometheus.Desc, v int) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descHeld, held)
	gauge(descPeers, alive)
	count(descTaken, a.counts.fresh.Load(), "unheld")
	count(descTaken, a.counts.lost.Load(), "lost")
	count(descTaken, a.counts.planned.Load(), "planned")
	a.counts.took.Collect(out)
	count(descReleased, a.counts.released.Load())
	count(descAnswers, a.counts.requests.Load(), "arp")
	count(descAnswers, a.counts.solicitations.Load(), "ndp")
	count(descAnnouncements, a.counts.announcements.Load())
	count(descConflicts, a.counts.conflicts.Load())
	count(descGreetings, m.Sent, "sent")
	count(descGreetings, m.Received, "received")
	count(descRefused, m.Malformed, "malformed")
	count(descRefused, m.Foreign, "foreign")
	count(descRefused, m.NotFresh, "not_fresh")
	count(descLost, m.Lost)
	count(descAway, m.Away)
}

// Describe implements prometheus.Collector.
func (a *Announcer) Describe(out chan<- *prometheus.Desc) {
	a.counts.took.Describe(out)
	for _, d := range []*prometheus.Desc{
		descHeld, descPeers, descTaken, descReleased, descAnswers, descAnnouncements, descConflicts, descGreetings, descRefused, descLost, descAway,
	} {
		out <- d
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("portico_announce_"+name, help, labels, nil)
}

var (
	descHeld          = desc("layer2_addresses", "Load-balancer addresses that this node answers for by ARP and NDP.")
	descPeers         = desc("peers_alive", "Other nodes whose greetings are heard.")
	descTaken         = desc("layer2_taken_total", "Addresses taken, by what became of the holder before.", "from")
	descReleased      = desc("layer2_released_total", "Addresses given up or handed over.")
	descAnswers       = desc("layer2_answers_total", "Questions of neighbours that were answered.", "protocol")
	descAnnouncements = desc("layer2_announcements_total", "Unasked announcements, one for each address, link and time.")
	descConflicts     = desc("layer2_conflicts_total", "Times that another host said to have an address of this node; at most one each ten seconds and address.")
	descGreetings     = desc("greetings_total", "Datagrams between agents.", "direction")
	descRefused       = desc("greetings_refused_total", "Datagrams that were not taken for a peer's.", "why")
	descLost          = desc("peers_lost_total", "Times that a peer was silent for so long that it counted as lost.")
	descAway          = desc("away_total", "Times that this agent was not running for so long that others may have taken its addresses.")
)

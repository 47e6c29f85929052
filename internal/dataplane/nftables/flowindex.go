package nftables

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// flowIndex knows the UDP flows to our frontends, so that those of one frontend
// are found without a walk over conntrack's table, which all protocols and all of the
// machine's namespaces share (9 ms empty, 50 ms with 200,000 entries). Flows come
// into it by records that the rules make of each flow's first packet (see flowlog.go): TCP connections
// cost nothing. That a flow has ended nobody tells; who asks conntrack by tuple learns it. Where records
// were lost the index is lost too, and the next list makes it anew.
//
// One goroutine takes records; the methods may be called beside it.
type flowIndex struct {
	log     *slog.Logger
	most    int // flows
	begun   time.Time
	closing chan struct{}
	done    chan struct{}

	mu        sync.Mutex                 // guards the following
	records   *recordSocket              // to wait at its file needs no lock
	ct        *conn                      // to conntrack
	complete  bool                       // flows has all there are
	flows     map[door]map[client]uint32 // the second since begun in which we heard of it
	count     int
	pruneAt   int
	unsettled map[door]*routing.Frontend // to be looked at once more
	nodes     []netip.Addr
	counts    FlowCounts
}

// client is a flow's source, without pointers: there may be many.
type client struct {
	addr [16]byte
	port uint16
}

func clientOf(ap netip.AddrPort) client { return client{ap.Addr().As16(), ap.Port()} }

// at gives the client's address, of the door's family.
func (c client) at(d door) netip.AddrPort {
	a := netip.AddrFrom16(c.addr)
	if d.Addr().Is4() {
		a = a.Unmap()
	}
	return netip.AddrPortFrom(a, c.port)
}

const (
	// maxFlows bounds the memory (some 40 bytes each). It is half of a usual
	// nf_conntrack_max, which is for all protocols.
	maxFlows = 1 << 17
	minPrune = 4096
	// recordPause is how long records may wait in the socket, so that a busy node
	// takes them together. The socket holds some 25,000.
	recordPause   = 50 * time.Millisecond
	recordsBuffer = 32 << 20
	// settling is when flows in doubt are looked at once more: a packet that was on
	// its way when the rules changed may have brought its entry later.
	settling = 100 * time.Millisecond
	// youth in seconds is how long a flow may be without an entry.
	youth = 1
)

// errIndexLost says that the index can't tell which flows there are.
var errIndexLost = errors.New("the index of UDP flows is incomplete")

// newFlowIndex opens the sockets in the calling thread's network namespace.
func newFlowIndex(log *slog.Logger, most int) (*flowIndex, error) {
	x := &flowIndex{log: log, most: most, begun: time.Now(), closing: make(chan struct{}), done: make(chan struct{})}
	x.forget()
	var err error
	if x.ct, err = openConn(); err != nil {
		return nil, fmt.Errorf("conntrack: %w", err)
	}
	if x.records, err = openRecords(recordGroup, recordsBuffer); err != nil {
		return nil, errors.Join(fmt.Errorf("records of UDP flows: %w", err), x.ct.close())
	}
	go x.run()
	return x, nil
}

func (x *flowIndex) close() error {
	close(x.closing)
	err := x.records.file.Close()
	<-x.done
	x.mu.Lock()
	defer x.mu.Unlock()
	return errors.Join(err, x.ct.close())
}

func (x *flowIndex) stats() FlowCounts {
	x.mu.Lock()
	defer x.mu.Unlock()
	c := x.counts
	c.Known, c.Indexed = x.count, x.complete
	return c
}

// run takes records as they come.
func (x *flowIndex) run() {
	defer close(x.done)
	for {
		err := x.records.raw.Read(func(fd uintptr) bool {
			x.mu.Lock()
			defer x.mu.Unlock()
			return x.drain(int(fd))
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = x.settle()
		case err != nil:
			return // closed
		default:
			err = x.tidy()
		}
		if err != nil {
			x.log.Warn("looking after UDP flows failed; the next change lists conntrack", "err", err)
		}
		select {
		case <-time.After(recordPause):
		case <-x.closing:
			return
		}
	}
}

// drain takes the records that wait, and reports whether there were any.
func (x *flowIndex) drain(fd int) (any bool) { return x.records.drain(fd, x.take, x.lose) }

func (x *flowIndex) take(r record) { x.insert(r.door, clientOf(r.client)) }

func (x *flowIndex) insert(d door, c client) {
	if x.flows[d] == nil {
		x.flows[d] = map[client]uint32{}
	}
	if _, known := x.flows[d][c]; !known {
		x.count++
	}
	x.flows[d][c] = x.second()
	if x.count > x.most {
		x.lose("too many flows")
	}
}

func (x *flowIndex) second() uint32 { return uint32(time.Since(x.begun) / time.Second) }

func (x *flowIndex) remove(d door, c client) {
	if _, ok := x.flows[d][c]; !ok {
		return
	}
	delete(x.flows[d], c)
	x.count--
	if len(x.flows[d]) == 0 {
		delete(x.flows, d)
	}
}

func (x *flowIndex) forget() {
	x.complete, x.flows = false, map[door]map[client]uint32{}
	x.count, x.pruneAt, x.unsettled = 0, minPrune, map[door]*routing.Frontend{}
}

// lose gives the index up, and stops the records until the next list: what floods
// the node with flows must not cost it more than their packets do.
func (x *flowIndex) lose(why string) {
	if !x.records.bound {
		return
	}
	x.log.Warn("the index of UDP flows is given up; the next change lists conntrack", "why", why)
	x.forget()
	if err := x.records.unbind(); err != nil {
		x.log.Warn("stopping the records of UDP flows failed", "err", err)
	}
}

// setNodes tells the addresses of node ports.
func (x *flowIndex) setNodes(nodes []netip.Addr) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.nodes = slices.Clone(nodes)
}

// supersede has what is to be looked at once more follow a change.
func (x *flowIndex) supersede(change routing.Change) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.unsettled) == 0 {
		return
	}
	note := func(key routing.Key, f *routing.Frontend) {
		for _, d := range doors(key, x.nodes) {
			// The door may be a node port's of one and another's own address.
			if old, ok := x.unsettled[d]; ok && (f == nil || old == nil || old.Key == f.Key) {
				x.unsettled[d] = f
			}
		}
	}
	for _, key := range change.Removed {
		if key.Protocol == catalog.UDP {
			note(key, nil)
		}
	}
	for _, f := range change.Set {
		if f.Protocol == catalog.UDP {
			note(f.Key, f)
		}
	}
}

// end ends what is stale behind some doors; the frontend is nil where there is
// none any more.
func (x *flowIndex) end(doors map[door]*routing.Frontend) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.records.raw.Control(func(fd uintptr) { x.drain(int(fd)) }); err != nil {
		return err
	}
	if !x.complete {
		return errIndexLost
	}
	for d, f := range doors {
		if err := x.check(d, f); err != nil {
			x.lose(err.Error())
			return err
		}
		x.unsettled[d] = f
	}
	return x.records.file.SetReadDeadline(time.Now().Add(settling))
}

// settle looks once more.
func (x *flowIndex) settle() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.records.file.SetReadDeadline(time.Time{}); err != nil {
		return nil // closed
	}
	if err := x.records.raw.Control(func(fd uintptr) { x.drain(int(fd)) }); err != nil {
		return nil
	}
	for d, f := range x.unsettled {
		if err := x.check(d, f); err != nil {
			x.lose(err.Error())
			return err
		}
	}
	x.unsettled = map[door]*routing.Frontend{}
	return nil
}

// check asks for all flows of a door and deletes the stale ones.
func (x *flowIndex) check(d door, f *routing.Frontend) error {
	flows := make([]flow, 0, len(x.flows[d]))
	for c := range x.flows[d] {
		flows = append(flows, flow{protocol: catalog.UDP, client: c.at(d), door: d})
	}
	if err := x.ask(flows); err != nil {
		return err
	}
	flows = slices.DeleteFunc(flows, func(fl flow) bool { return !fl.exists || f != nil && keeps(f, fl.backend) })
	return x.delete(flows)
}

// ask fills in what conntrack has of flows, and forgets those that it hasn't.
func (x *flowIndex) ask(flows []flow) error {
	x.counts.Asked += uint64(len(flows))
	if err := x.ct.askFlows(flows); err != nil {
		return fmt.Errorf("ask conntrack: %w", err)
	}
	now := x.second()
	for i := range flows {
		if fl := &flows[i]; !fl.exists {
			if c := clientOf(fl.client); now > x.flows[fl.door][c]+youth {
				x.remove(fl.door, c)
			}
		}
	}
	return nil
}

func (x *flowIndex) delete(flows []flow) error {
	if err := x.ct.deleteFlows(flows); err != nil {
		return fmt.Errorf("delete conntrack entries: %w", err)
	}
	x.counts.Deleted += uint64(len(flows))
	for i := range flows {
		x.remove(flows[i].door, clientOf(flows[i].client))
	}
	return nil
}

// relist begins anew: judge says of each UDP entry whether it leads through a
// frontend of ours, and whether it is stale.
func (x *flowIndex) relist(judge func(*flow) (ours, stale bool)) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.forget()
	if err := x.records.bind(x.take); err != nil { // first, or flows could begin unnoticed
		x.log.Warn("UDP flows can't be followed; each change lists conntrack", "err", err)
	}
	flows, err := x.ct.listUDP()
	if err != nil {
		return err
	}
	x.counts.Lists++
	x.counts.Listed += uint64(len(flows))
	x.complete = x.records.bound
	var stale []flow
	for i := range flows {
		fl := &flows[i]
		switch ours, old := judge(fl); {
		case old:
			stale = append(stale, *fl)
		case ours && x.records.bound && fl.zone == nil: // others' zones aren't on our path
			x.insert(fl.door, clientOf(fl.client))
		}
	}
	return x.delete(stale)
}

// tidy forgets flows that have ended, when the index has doubled.
func (x *flowIndex) tidy() (err error) {
	x.mu.Lock()
	var all []flow
	if x.count >= x.pruneAt {
		for d, clients := range x.flows {
			for c := range clients {
				all = append(all, flow{protocol: catalog.UDP, client: c.at(d), door: d})
			}
		}
	}
	x.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	const atOnce = 512 // a change must not wait for the rest
	for part := range slices.Chunk(all, atOnce) {
		x.mu.Lock()
		if err = x.ask(part); err != nil {
			x.lose(err.Error())
		}
		x.mu.Unlock()
		if err != nil {
			return err
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pruneAt = max(minPrune, 2*x.count)
	return nil
}

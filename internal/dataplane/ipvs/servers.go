package ipvs

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// DefaultScheduler is kube-proxy's.
const DefaultScheduler = "rr"

// weight is every backend's: a Service's endpoints are equal.
const weight = 1

// writer changes virtual servers: a wire, or a test.
type writer interface {
	write(all []request) ([]refusal, error)
}

// servers are our virtual servers in the kernel, and what is known of them. Changes wait in
// a queue, and what is known has them already; flush sends the rest of them. After an error
// only reading the kernel tells what there is.
type servers struct {
	to       writer
	log      *slog.Logger
	fallback string // the scheduler for those whose own the kernel doesn't have
	lacking  func(service types.NamespacedName, uid types.UID, text string)

	held       map[key]*server
	queue      []request
	schedulers map[string]bool // those that were tried: whether the kernel has them
}

// reset forgets all but what the kernel has. Schedulers may have been loaded since.
func (s *servers) reset(held map[key]*server) {
	s.held, s.queue, s.schedulers = held, nil, map[string]bool{}
}

// ask queues a change.
func (s *servers) ask(r request) error {
	s.queue = append(s.queue, r)
	if len(s.queue) < batchMost {
		return nil
	}
	return s.flush()
}

// flush sends what is queued.
func (s *servers) flush() error {
	refused, err := s.to.write(s.queue)
	s.queue = s.queue[:0]
	if err != nil {
		return err
	}
	for _, r := range refused {
		if err := s.bear(r); err != nil {
			return err
		}
	}
	return nil
}

// bear takes refusals that do no harm, and gives the others' errors.
func (s *servers) bear(r refusal) error {
	switch {
	case r.cmd == cmdNewDest && errors.Is(r.err, unix.EINVAL):
		// Of a local network's broadcast address, say; the others go on.
		s.log.Error("IPVS doesn't take this address as a backend's", "backend", r.at, "virtualServer", r.key.String())
		if have := s.held[r.key]; have != nil {
			delete(have.backends, r.at)
		}
		return nil
	case r.cmd == cmdDelDest && errors.Is(r.err, unix.ENOENT), r.cmd == cmdDelService && errors.Is(r.err, unix.ESRCH):
		return nil // it is gone
	case r.cmd == cmdNewDest || r.cmd == cmdSetDest || r.cmd == cmdDelDest:
		return fmt.Errorf("change backend %s of virtual server %s: %w", r.at, r.key, r.err)
	case r.cmd == cmdDelService:
		return fmt.Errorf("delete the virtual server %s: %w", r.key, r.err)
	default:
		return fmt.Errorf("make the virtual server %s: %w", r.key, r.err)
	}
}

// errNoScheduler says that the kernel has no such scheduler.
var errNoScheduler = errors.New("no such scheduler")

// define gives the definition that the kernel can do.
func (s *servers) define(w *wanted) definition {
	d := w.definition
	if has, tried := s.schedulers[d.scheduler]; tried && !has {
		d.scheduler = s.fallback
	}
	return d
}

// fellBack tells a Service's owner that the kernel lacks its scheduler.
func (s *servers) fellBack(w *wanted) {
	text := fmt.Sprintf("the kernel has no scheduler %s of IPVS, and no module ip_vs_%s that it could load; %s picks the backends", w.scheduler, w.scheduler, s.fallback)
	s.log.Error("A Service's scheduler is missing", "service", w.service, "why", text)
	if s.lacking != nil {
		s.lacking(w.service, w.uid, text)
	}
}

// put makes a virtual server what is wanted. Backends that get no new connections leave
// with their last connection, or now.
func (s *servers) put(k key, w *wanted) error {
	have := s.held[k]
	if d := s.define(w); have == nil || have.definition != d {
		cmd := byte(cmdSetService)
		if have == nil {
			cmd = cmdNewService
		}
		d, err := s.putDefinition(cmd, k, w)
		if err != nil {
			return err
		}
		if have == nil {
			have = &server{backends: map[netip.AddrPort]load{}}
			s.held[k] = have
		}
		have.definition = d
	}
	set := make(map[netip.AddrPort]bool, len(w.set))
	for _, b := range w.set {
		set[b.AddrPort] = true
		now, ok := have.backends[b.AddrPort]
		switch {
		case !ok:
			if err := s.backend(cmdNewDest, k, b.AddrPort, weight); err != nil {
				return err
			}
		case now.weight != weight:
			if err := s.backend(cmdSetDest, k, b.AddrPort, weight); err != nil {
				return err
			}
		}
	}
	for at, now := range have.backends {
		if set[at] {
			continue
		}
		var err error
		if !w.keeps(k, at) {
			err = s.backend(cmdDelDest, k, at, 0)
		} else if now.weight != 0 {
			err = s.backend(cmdSetDest, k, at, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keeps reports whether flows to a backend that isn't in the set go on. Connections always
// do; a client's datagrams go elsewhere, when somebody else serves and it doesn't.
func (w *wanted) keeps(k key, at netip.AddrPort) bool {
	if k.protocol != catalog.UDP || len(w.set) == 0 {
		return true
	}
	return slices.ContainsFunc(w.known.LeftOut, func(b routing.LeftOut) bool { return b.AddrPort == at && b.Serving })
}

// putDefinition falls back to the usual scheduler where the kernel lacks the wanted one.
func (s *servers) putDefinition(cmd byte, k key, w *wanted) (definition, error) {
	d := s.define(w)
	r := request{cmd: cmd, key: k, definition: d}
	if _, tried := s.schedulers[d.scheduler]; !tried {
		has, err := s.try(r)
		switch {
		case err != nil:
			return d, err
		case !has && d.scheduler == s.fallback:
			return d, fmt.Errorf("make the virtual server %s: %w: %q, which needs the module ip_vs_%s", k, errNoScheduler, d.scheduler, d.scheduler)
		case !has:
			return s.putDefinition(cmd, k, w)
		}
	} else if err := s.ask(r); err != nil {
		return d, err
	}
	if d.scheduler != w.scheduler {
		s.fellBack(w)
	}
	return d, nil
}

// try asks for the first virtual server with a scheduler, and waits for the answer.
func (s *servers) try(r request) (has bool, err error) {
	if err := s.flush(); err != nil {
		return false, err
	}
	refused, err := s.to.write([]request{r})
	if err != nil {
		return false, err
	}
	has = true
	for _, no := range refused {
		if has = !errors.Is(no.err, unix.ENOENT); has {
			return false, s.bear(no)
		}
	}
	s.schedulers[r.definition.scheduler] = has
	return has, nil
}

func (s *servers) backend(cmd byte, k key, at netip.AddrPort, weight uint32) error {
	if cmd == cmdDelDest {
		delete(s.held[k].backends, at)
	} else {
		s.held[k].backends[at] = load{weight: weight}
	}
	return s.ask(request{cmd: cmd, key: k, at: at, weight: weight})
}

// lingers reports whether a virtual server that is nobody's stays for its connections:
// those by datagrams, where its door is idle alone.
func (s *servers) lingers(k key, idle bool) bool {
	have := s.held[k]
	return have != nil && (k.protocol != catalog.UDP || idle) && len(have.backends) > 0
}

// leave has a virtual server that is nobody's take no new connections. It reports whether
// it is gone already: it goes with its last connection.
func (s *servers) leave(k key, idle bool) (gone bool, err error) {
	have := s.held[k]
	if have == nil {
		return true, nil
	}
	if !s.lingers(k, idle) {
		return true, s.remove(k)
	}
	for at, now := range have.backends {
		if now.weight != 0 {
			if err := s.backend(cmdSetDest, k, at, 0); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

func (s *servers) remove(k key) error {
	delete(s.held, k)
	return s.ask(request{cmd: cmdDelService, key: k})
}

// differences says in words how a virtual server differs from what is wanted; nil: nobody
// wants it. What only leaves is none.
func (s *servers) differences(k key, w *wanted, have *server) (words []string) {
	say := func(format string, args ...any) {
		words = append(words, "virtual server "+k.String()+": "+fmt.Sprintf(format, args...))
	}
	if have == nil {
		say("missing")
		return words
	}
	set := map[netip.AddrPort]bool{}
	if w != nil {
		if d := s.define(w); d != have.definition {
			say("scheduler %s and %d s of persistence, want %s and %d s", have.scheduler, have.persistent, d.scheduler, d.persistent)
		}
		for _, b := range w.set {
			set[b.AddrPort] = true
			switch now, ok := have.backends[b.AddrPort]; {
			case !ok:
				say("backend %s missing", b.AddrPort)
			case now.weight != weight:
				say("backend %s has weight %d, want %d", b.AddrPort, now.weight, weight)
			}
		}
	}
	for at, now := range have.backends {
		if !set[at] && (now.weight != 0 || w != nil && !w.keeps(k, at)) {
			say("backend %s superfluous", at)
		}
	}
	return words
}

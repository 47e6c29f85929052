package apiserver

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/metrics"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	cachermetrics "k8s.io/apiserver/pkg/storage/cacher/metrics"
	compbasemetrics "k8s.io/component-base/metrics"
)

// lastBookmark is how long before its end a watch gets a bookmark, as the library's watch
// caches do it.
const lastBookmark = 2 * time.Second

// sourcePatience is how long the store may take to tell its newest version, before watches
// do without.
const sourcePatience = 2 * time.Second

// plainWatches answers the watches that ask for nothing special: those of a kind, of its
// objects in a namespace, or of one object, from a version on that isn't long gone. They
// stand at the end of the chain of handlers, which has decided who asks and whether it
// may; all others are left to the library. The watch caches see one watch for each kind.
type plainWatches struct {
	gets *plainGets // knows the kinds
	ctx  context.Context
	// readers hand the events of watch caches on.
	readers sync.WaitGroup
	mu      sync.Mutex
	hubs    map[schema.GroupVersionResource]*watchHub // guarded by mu
	began   atomic.Uint64
}

// watchQuery is what the query of a watch asks for.
type watchQuery struct {
	after     uint64
	name      string
	timeout   time.Duration // 0: the server's choice
	bookmarks bool
}

// parsePlainWatch reads a query, if it is plain. What can be spelled in several ways, or is
// wrong, is for the library to understand or to refuse.
func parsePlainWatch(raw string) (q watchQuery, plain bool) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return q, false
	}
	for key, all := range values {
		if len(all) != 1 {
			return q, false
		}
		ok, value := true, all[0]
		switch key {
		case "watch":
			ok = value == "1" || value == "true"
		case "allowWatchBookmarks":
			q.bookmarks = value == "1" || value == "true"
			ok = q.bookmarks || value == "0" || value == "false"
		case "resourceVersion":
			q.after, err = strconv.ParseUint(value, 10, 64)
			ok = err == nil
		case "timeoutSeconds":
			var seconds uint64
			seconds, err = strconv.ParseUint(value, 10, 31)
			ok, q.timeout = err == nil, time.Duration(seconds)*time.Second
		case "fieldSelector":
			q.name, ok = strings.CutPrefix(value, "metadata.name=")
			ok = ok && q.name != "" && !strings.ContainsAny(q.name, `,=!\`)
		case "labelSelector":
			ok = value == ""
		default:
			ok = false
		}
		if !ok {
			return q, false
		}
	}
	return q, q.after > 0 && values.Has("watch")
}

// before puts the layer before the library's handlers.
func (p *plainWatches) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		flusher, ok := w.(http.Flusher)
		query, kind, info := p.asked(req)
		conn := bundledConnOf(req.Context()) // controllers of this process have none to share
		if !ok || kind == nil || conn == nil {
			next.ServeHTTP(w, req)
			return
		}
		accepted, err := negotiation.NegotiateOutputMediaTypeStream(req, kind.serializers, negotiation.DefaultEndpointRestrictions)
		if err != nil {
			next.ServeHTTP(w, req)
			return
		}
		hub := p.hub(kind, info)
		watching := newPlainWatch(watchScope{info.Namespace, query.name}, query, conn, hub.encoder(accepted))
		if !hub.join(watching) {
			next.ServeHTTP(w, req)
			return
		}
		p.began.Add(1)
		answer := &watchAnswer{writer: w, flusher: flusher, hub: hub, watching: watching, timeout: query.timeout}
		began, scope := time.Now(), "cluster"
		if info.Namespace != "" {
			scope = "namespace"
		}
		metrics.RecordLongRunning(req, info, metrics.APIServerComponent, func() { answer.serve(req, info) })
		metrics.MonitorRequest(req, "LIST", info.APIGroup, info.APIVersion, info.Resource, "", scope, metrics.APIServerComponent,
			false, "", http.StatusOK, answer.written, time.Since(began))
	})
}

// asked is what req asks for, without a kind if it isn't plain.
func (p *plainWatches) asked(req *http.Request) (watchQuery, *plainKind, *apirequest.RequestInfo) {
	info, ok := apirequest.RequestInfoFrom(req.Context())
	if !ok || info.Verb != "watch" || info.Subresource != "" || req.Method != http.MethodGet || req.ProtoMajor != 2 || req.URL.RawPath != "" || !plainAccept(req.Header) {
		return watchQuery{}, nil, nil
	}
	kind := p.gets.kinds[schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}]
	if kind == nil {
		return watchQuery{}, nil, nil
	}
	scope := ""
	if info.Namespace != "" {
		scope = "namespaces/" + info.Namespace + "/"
	}
	// The old paths of watches, and those with a name, are the library's.
	if req.URL.Path != kind.root+scope+info.Resource || info.Namespace != "" && !kind.namespaced {
		return watchQuery{}, nil, nil
	}
	query, ok := parsePlainWatch(req.URL.RawQuery)
	if !ok || query.name != info.Name {
		return watchQuery{}, nil, nil
	}
	return query, kind, info
}

// hub is the one of a kind.
func (p *plainWatches) hub(kind *plainKind, info *apirequest.RequestInfo) *watchHub {
	gvr := schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}
	p.mu.Lock()
	defer p.mu.Unlock()
	hub, ok := p.hubs[gvr]
	if !ok {
		hub = &watchHub{
			gv: gvr.GroupVersion(), serializers: kind.serializers, empty: kind.store.NewFunc, open: p.source(kind), readers: &p.readers,
			dropped: func() { cachermetrics.TerminatedWatchersCounter.WithLabelValues(gvr.Group, gvr.Resource).Inc() },
		}
		if p.hubs == nil {
			p.hubs = map[schema.GroupVersionResource]*watchHub{}
		}
		p.hubs[gvr] = hub
	}
	return hub
}

// source watches all objects of a kind in its watch cache.
func (p *plainWatches) source(kind *plainKind) func(uint64) (watch.Interface, error) {
	return func(after uint64) (watch.Interface, error) {
		ctx, cancel := context.WithTimeout(p.ctx, sourcePatience)
		defer cancel()
		// From a version that is still to come, no watch but that one would have its events.
		newest, err := kind.store.Storage.Storage.GetCurrentResourceVersion(ctx)
		if err != nil || after > newest {
			return nil, errNotYet
		}
		return kind.store.Watch(p.ctx, &metainternalversion.ListOptions{ResourceVersion: strconv.FormatUint(after, 10), AllowWatchBookmarks: true})
	}
}

// PlainWatches is how many watches were begun that share their kind's one watch of its
// watch cache.
func (s *Server) PlainWatches() uint64 { return s.watches.began.Load() }

// watchAnswer is the answer to a plain watch.
type watchAnswer struct {
	writer   http.ResponseWriter
	flusher  http.Flusher
	hub      *watchHub
	watching *plainWatch
	timeout  time.Duration
	written  int
}

// serve sends events until the client, the time or the server ends it.
func (a *watchAnswer) serve(req *http.Request, info *apirequest.RequestInfo) {
	defer a.hub.leave(a.watching)
	if a.timeout == 0 {
		a.timeout = time.Duration(float64(minRequestTimeout) * (rand.Float64() + 1)) // as the library spreads them
	}
	bookmark := a.watching.bookmarks && a.timeout > lastBookmark
	timer := time.NewTimer(a.timeout)
	if bookmark {
		timer.Reset(a.timeout - lastBookmark)
	}
	defer timer.Stop()
	var shutdown <-chan struct{}
	if signals := apirequest.ServerShutdownSignalFrom(req.Context()); signals != nil {
		shutdown = signals.ShuttingDown()
	}
	done := req.Context().Done()
	count := metrics.WatchEvents.WithContext(req.Context()).WithLabelValues(info.APIGroup, info.APIVersion, info.Resource)
	size := metrics.WatchEventsSizes.WithContext(req.Context()).WithLabelValues(info.APIGroup, info.APIVersion, info.Resource)
	header := a.writer.Header()
	header["Content-Type"] = []string{a.watching.encoder.mediaType}
	header["Transfer-Encoding"] = []string{"chunked"}
	a.writer.WriteHeader(http.StatusOK)
	a.flusher.Flush()
	for {
		select {
		case <-a.watching.wake:
			if !a.send(count, size) {
				return
			}
		case <-timer.C:
			if !bookmark {
				return
			}
			bookmark = false
			a.hub.bookmark(a.watching)
			timer.Reset(lastBookmark)
		case <-done:
			return
		case <-shutdown:
			return
		}
	}
}

// send writes what waits, and tells whether there may be more.
func (a *watchAnswer) send(count compbasemetrics.CounterMetric, size compbasemetrics.ObserverMetric) bool {
	events, party, ended := a.watching.take()
	if party > 0 {
		defer a.watching.conn.arrived(party)
	}
	for _, event := range events {
		n, err := a.writer.Write(event)
		a.written += n
		if err != nil {
			return false // the client is gone
		}
		count.Inc()
		size.Observe(float64(n))
	}
	a.flusher.Flush()
	return !ended
}

// plainAccept says whether a watch's header asks for the objects themselves, and for no
// other protocol.
func plainAccept(header http.Header) bool {
	accept := header["Accept"]
	return header["Upgrade"] == nil && (len(accept) == 0 || len(accept) == 1 && !strings.Contains(accept[0], ";"))
}

package api

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	"portico.dev/portico/internal/apiserver/proxy"
)

// ownAddress is an address of this host that the API server may connect to for others.
func ownAddress() (netip.Addr, bool) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, false
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && proxy.Allowed(p.Addr()) == nil {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// backend serves HTTP on this host's own address until the script ends; $BACKEND_IP and
// $BACKEND_PORT say where. It answers with the request that it got.
func backend(ts *testscript.TestScript, neg bool, args []string) {
	addr, ok := ownAddress()
	if neg || len(args) > 0 || !ok {
		ts.Fatalf("usage: [address] backend")
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	ts.Check(err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { //nolint:gosec // for tests
		body, _ := io.ReadAll(req.Body)
		fmt.Fprintf(w, "backend: %s %s %s\n", req.Method, req.URL, body)
	})}
	var served sync.WaitGroup
	served.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			ts.Logf("backend: %v", err)
		}
	})
	ts.Defer(func() {
		_ = server.Close()
		served.Wait()
	})
	ts.Setenv("BACKEND_IP", addr.String())
	ts.Setenv("BACKEND_PORT", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}

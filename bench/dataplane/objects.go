package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"portico.dev/portico/bench/apiclient"
)

const (
	// endpointsEach Service has, and as many addresses again, some unused, to change to.
	endpointsEach    = 10
	addressesEach    = 16
	namespace        = "bench"
	servicesPath     = "/api/v1/namespaces/" + namespace + "/services"
	slicesPath       = "/apis/discovery.k8s.io/v1/namespaces/" + namespace + "/endpointslices"
	mergePatch       = "application/merge-patch+json"
	writers          = 8
	doorName         = "door"
	namespacesPath   = "/api/v1/namespaces"
	nodesPath        = "/api/v1/nodes"
	applicationJSON  = "application/json"
	serviceNameLabel = "kubernetes.io/service-name"
)

// Services have no selector, so that no controller makes or changes endpoints.

var (
	firstIP = netip.MustParseAddr("10.100.0.1")
	doorIP  = netip.MustParseAddr("10.108.0.1")
	// doorAddresses are the two backends between which the door's Service changes.
	doorAddresses = [2]netip.Addr{netip.MustParseAddr("10.191.0.1"), netip.MustParseAddr("10.191.0.2")}
)

func plus(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
	return netip.AddrFrom4(b)
}

func serviceName(i int) string { return fmt.Sprintf("svc-%05d", i) }

func clusterIP(i int) netip.Addr { return plus(firstIP, i) }

// endpoint is the j-th address of a Service; the first endpointsEach are used at first.
func endpoint(i, j int) netip.Addr { return plus(backendRange.Addr(), i*addressesEach+j) }

func service(name string, ip netip.Addr, port int) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Service","metadata":{"name":%q},"spec":{"clusterIP":%q,`+
		`"ports":[{"name":"http","port":%d,"targetPort":%d}]}}`, name, ip, servicePort, port)
}

func slice(name string, addresses []netip.Addr, port int) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":%q,"labels":{%q:%q}},`+
		`"addressType":"IPv4","ports":[{"name":"http","port":%d,"protocol":"TCP"}],"endpoints":%s}`, name, serviceNameLabel, name, port, endpoints(addresses))
}

func endpoints(addresses []netip.Addr) string {
	all := make([]string, len(addresses))
	for i, a := range addresses {
		// Controllers name the node of each: here one of ten others than the contenders'.
		node := a.As4()[3] % 10
		all[i] = fmt.Sprintf(`{"addresses":[%q],"nodeName":"node-%d","conditions":{"ready":true}}`, a, node)
	}
	return "[" + strings.Join(all, ",") + "]"
}

// changed are a Service's endpoints after its n-th change: each time another address
// takes the place of the same one.
func changed(i, n int) []netip.Addr {
	out := []netip.Addr{endpoint(i, 0)}
	if n > 0 {
		out[0] = endpoint(i, endpointsEach+n%(addressesEach-endpointsEach))
	}
	for j := 1; j < endpointsEach; j++ {
		out = append(out, endpoint(i, j))
	}
	return out
}

// makeDoor makes the namespace and the Service whose changes are timed.
func makeDoor(c *apiclient.Client) error {
	var answer bytes.Buffer
	for _, o := range []struct {
		path string
		body []byte
	}{
		{namespacesPath, []byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + namespace + `"}}`)},
		{servicesPath, service(doorName, doorIP, doorPort)},
		{slicesPath, slice(doorName, doorAddresses[:1], doorPort)},
	} {
		if err := c.Must("POST", o.path, applicationJSON, o.body, &answer); err != nil {
			return err
		}
	}
	return nil
}

// makeServices makes those from first up to, but not including, last.
func makeServices(ctx context.Context, a apiclient.Access, first, last int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := atomic.Int64{}
	next.Store(int64(first))
	var group sync.WaitGroup
	for range writers {
		c, err := apiclient.Dial(ctx, a, false)
		if err != nil {
			cancel(err)
			break
		}
		group.Go(func() {
			defer c.Close()
			var answer bytes.Buffer
			for i := int(next.Add(1)) - 1; i < last && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				err := c.Must("POST", servicesPath, applicationJSON, service(serviceName(i), clusterIP(i), backendPort), &answer)
				if err == nil {
					err = c.Must("POST", slicesPath, applicationJSON, slice(serviceName(i), changed(i, 0), backendPort), &answer)
				}
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

// makeNode makes a Node with an address, or gives the one that is there the address.
func makeNode(c *apiclient.Client, name string, address netip.Addr) error {
	var answer bytes.Buffer
	body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"Node","metadata":{"name":%q}}`, name)
	code, err := c.Call("POST", nodesPath, applicationJSON, body, &answer)
	if err != nil {
		return err
	}
	if code != http.StatusCreated && code != http.StatusConflict {
		return fmt.Errorf("make the Node %s: %d %s", name, code, &answer)
	}
	status := fmt.Appendf(nil, `{"status":{"addresses":[{"type":"InternalIP","address":%q},{"type":"Hostname","address":%q}]}}`, address, name)
	return c.Must("PATCH", nodesPath+"/"+name+"/status", mergePatch, status, &answer)
}

// revision is the present one of a list.
func revision(c *apiclient.Client, path string) (string, error) {
	var answer bytes.Buffer
	if err := c.Must("GET", path+"?limit=1", "", nil, &answer); err != nil {
		return "", err
	}
	var list struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(answer.Bytes(), &list); err != nil {
		return "", fmt.Errorf("read the revision of %s: %w", path, err)
	}
	return list.Metadata.ResourceVersion, nil
}

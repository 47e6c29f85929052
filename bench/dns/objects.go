package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/apiserver"
)

const (
	// namespaces is over how many the Services are spread.
	namespaces = 20
	// headlessServices and endpointsEach are the same at every size: what an answer for
	// one costs doesn't depend on how many there are.
	headlessServices = 50
	endpointsEach    = 5
	// writers is how many connections create Services.
	writers = 4
	// startPatience is how long a server may take to get ready on a busy machine.
	startPatience = 2 * time.Minute

	zone = "cluster.local."
)

func namespaceOf(n int) string { return fmt.Sprintf("ns-%d", n%namespaces) }
func serviceName(n int) string { return fmt.Sprintf("svc-%05d.%s.svc.%s", n, namespaceOf(n), zone) }

func headlessName(n int) string { return fmt.Sprintf("headless-%d.%s.svc.%s", n, namespaceOf(n), zone) }
func servicesPath(n int) string { return "/api/v1/namespaces/" + namespaceOf(n) + "/services" }

// api is the one API server whose objects both DNS servers watch. It is Portico's: what
// it costs is in nobody's figures.
type api struct {
	*apiserver.Server
	tap  *tap
	dir  string
	size int // Services there are
}

func startAPI(ctx context.Context, dir, portico string) (*api, error) {
	s, err := apiserver.StartPortico(ctx, dir, "", portico)
	if err != nil {
		return nil, err
	}
	// What it does after it has told of a change is in nobody's figures either.
	if err := s.StandBack(); err != nil {
		s.Stop()
		return nil, err
	}
	a := &api{Server: s, dir: dir}
	if a.tap, err = startTap(dir, s.Access); err != nil {
		s.Stop()
		return nil, err
	}
	if err := a.fill(ctx); err != nil {
		a.stop()
		return nil, err
	}
	return a, nil
}

func (a *api) stop() {
	a.tap.Close()
	a.Stop()
}

// post creates an object, and tries again while its namespace isn't usable yet.
func (a *api) post(ctx context.Context, c *apiclient.Client, path, body string) error {
	var answer bytes.Buffer
	return a.Wait(ctx, func(context.Context) error {
		return c.Must("POST", path, "application/json", []byte(body), &answer)
	})
}

// fill makes the namespaces and the headless Services.
func (a *api) fill(ctx context.Context) error {
	c, err := apiclient.Dial(ctx, a.Access, false)
	if err != nil {
		return err
	}
	defer c.Close()
	for n := range namespaces {
		if err := a.post(ctx, c, "/api/v1/namespaces", fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q}}`, namespaceOf(n))); err != nil {
			return err
		}
	}
	for n := range headlessServices {
		service := fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"headless-%d"},"spec":{"clusterIP":"None","ports":[{"name":"http","port":80}]}}`, n)
		if err := a.post(ctx, c, servicesPath(n), service); err != nil {
			return err
		}
		var endpoints []string
		for e := range endpointsEach {
			endpoints = append(endpoints, fmt.Sprintf(`{"addresses":["10.244.%d.%d"],"conditions":{"ready":true}}`, n, e+2))
		}
		slice := fmt.Sprintf(`{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"headless-%d-a","labels":{"kubernetes.io/service-name":"headless-%[1]d"}},
			"addressType":"IPv4","ports":[{"name":"http","port":80,"protocol":"TCP"}],"endpoints":[%s]}`, n, strings.Join(endpoints, ","))
		if err := a.post(ctx, c, "/apis/discovery.k8s.io/v1/namespaces/"+namespaceOf(n)+"/endpointslices", slice); err != nil {
			return err
		}
	}
	return nil
}

// grow has the API hold size Services with addresses of both families.
func (a *api) grow(ctx context.Context, size int) error {
	var group sync.WaitGroup
	errs := make([]error, writers)
	for w := range writers {
		group.Go(func() {
			c, err := apiclient.Dial(ctx, a.Access, false)
			if err != nil {
				errs[w] = err
				return
			}
			defer c.Close()
			for n := a.size + w; n < size && errs[w] == nil && ctx.Err() == nil; n += writers {
				body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"svc-%05d"},"spec":{"ipFamilyPolicy":"PreferDualStack","selector":{"app":"a%[1]d"},"ports":[{"name":"http","port":80}]}}`, n)
				errs[w] = a.post(ctx, c, servicesPath(n), body)
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("create %d Services: %w", size, err)
		}
	}
	a.size = size
	return context.Cause(ctx)
}

// settle waits until all that controllers make of the Services is there, and nothing is
// left to do.
func (a *api) settle(ctx context.Context, look time.Duration) error {
	c, err := apiclient.Dial(ctx, a.Access, false)
	if err != nil {
		return err
	}
	defer c.Close()
	for path, want := range map[string]int{
		"/apis/discovery.k8s.io/v1/endpointslices": 2*a.size + headlessServices, // one of each family
		"/api/v1/endpoints":                        a.size,
		"/apis/networking.k8s.io/v1/ipaddresses":   2 * a.size,
	} {
		if err := a.Wait(ctx, func(context.Context) error {
			if n, err := count(c, path); err != nil || n < want {
				return errors.Join(err, fmt.Errorf("%d of %d objects at %s", n, want, path))
			}
			return nil
		}); err != nil {
			return err
		}
	}
	_, err = a.Settle(ctx, look)
	return err
}

// count is how many objects there are.
func count(c *apiclient.Client, path string) (int, error) {
	var answer bytes.Buffer
	if err := c.Must("GET", path+"?limit=1", "", nil, &answer); err != nil {
		return 0, err
	}
	var list struct {
		Metadata struct{ RemainingItemCount int }
		Items    []struct{}
	}
	if err := json.Unmarshal(answer.Bytes(), &list); err != nil {
		return 0, fmt.Errorf("count the objects at %s: %w", path, err)
	}
	return len(list.Items) + list.Metadata.RemainingItemCount, nil
}

// kinds of load, each a file of questions for dnsperf.
const (
	namesLoad = "names" // addresses of Services
	mixLoad   = "mix"   // that, AAAA, headless, and the search path's names that don't exist
)

func writeQuestions(dir string, size int) error {
	var names, mix strings.Builder
	for n := range size {
		name := serviceName(n)
		fmt.Fprintf(&names, "%s A\n", name)
		// What a resolver with five dots' patience asks first of a name that is whole
		// already (resolv.conf(5), ndots).
		bare := strings.TrimSuffix(name, ".")
		fmt.Fprintf(&mix, "%s A\n%[1]s AAAA\n%s A\n%s.%s.svc.%s A\n%[3]s.svc.%[5]s A\n", name, headlessName(n%headlessServices), bare, namespaceOf(n), zone)
	}
	for load, text := range map[string]*strings.Builder{namesLoad: &names, mixLoad: &mix} {
		if err := os.WriteFile(filepath.Join(dir, load), []byte(text.String()), 0o600); err != nil {
			return fmt.Errorf("write the questions: %w", err)
		}
	}
	return nil
}

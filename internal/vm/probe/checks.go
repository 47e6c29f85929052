package probe

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	// maxBody is how much of an answer is read; a kubelet reads as much.
	maxBody = 10 << 10
	// maxRedirects is net/http's own limit, kept where we replace its policy.
	maxRedirects = 10
	userAgent    = "portico-probe"
)

// tcp succeeds when a connection is accepted.
func tcp(host string, port int) Check {
	addr := net.JoinHostPort(host, strconv.Itoa(port))
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	}
}

// httpGet succeeds on a status from 200 to 399. A redirect to another host is a
// success by itself: whatever that host says is nothing about the guest.
func httpGet(a *corev1.HTTPGetAction, host string, port int) (Check, error) {
	scheme := strings.ToLower(string(a.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	if scheme != "http" && scheme != "https" {
		return nil, fmt.Errorf("httpGet.scheme: %s is neither HTTP nor HTTPS", a.Scheme)
	}
	u, err := url.Parse(a.Path) // it may carry a query
	if err != nil {
		return nil, fmt.Errorf("httpGet.path: %w", err)
	}
	u.Scheme, u.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	if !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	header := http.Header{"User-Agent": {userAgent}, "Accept": {"*/*"}}
	for _, h := range a.HTTPHeaders {
		header.Add(h.Name, h.Value)
	}
	client := &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true, // each check is a connection of its own
			// A guest's certificate is for its Service's name, if for any.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			Proxy:           nil,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Hostname() != via[0].URL.Hostname() || len(via) >= maxRedirects {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	return func(ctx context.Context) error { return get(ctx, client, u.String(), header) }, nil
}

func get(ctx context.Context, client *http.Client, address string, header http.Header) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	r.Header = header.Clone()
	r.Host = header.Get("Host") // net/http ignores the header of this name
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("GET %s: status %s: %.100s", address, resp.Status, body)
	}
	return nil
}

package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/discovery"
)

// aggregatedGroups is the form of /apis that clients since Kubernetes 1.26 ask for.
const aggregatedGroups = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// withGroups answers /apis for older clients. The library's own answer lists the groups
// of one server of the chain, and leaves custom resources to an aggregator that we
// don't have: clients that know no other form would find no custom kind. So their
// answer is made from the newer form, which all servers of the chain share.
func withGroups(next, all http.Handler, addresses discovery.Addresses, codecs runtime.NegotiatedSerializer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet || strings.TrimSuffix(req.URL.Path, "/") != "/apis" || strings.Contains(req.Header.Get("Accept"), "APIGroupDiscoveryList") {
			next.ServeHTTP(w, req)
			return
		}
		groups, err := listGroups(all, req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		handler := discovery.NewRootAPIsHandler(addresses, codecs)
		for _, group := range groups {
			handler.AddGroup(group)
		}
		handler.ServeHTTP(w, req)
	})
}

// listGroups asks all for the newer form and turns it into the older.
func listGroups(all http.Handler, req *http.Request) ([]metav1.APIGroup, error) {
	ask := req.Clone(req.Context())
	ask.Header = http.Header{"Accept": {aggregatedGroups}}
	got := answer{header: http.Header{}, code: http.StatusOK}
	all.ServeHTTP(&got, ask)
	if got.code != http.StatusOK {
		return nil, fmt.Errorf("list the served groups: status %d: %s", got.code, got.body.Bytes())
	}
	var list apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal(got.body.Bytes(), &list); err != nil {
		return nil, fmt.Errorf("list the served groups: %w", err)
	}
	var groups []metav1.APIGroup
	for _, item := range list.Items {
		group := metav1.APIGroup{Name: item.Name}
		for _, v := range item.Versions {
			group.Versions = append(group.Versions, metav1.GroupVersionForDiscovery{GroupVersion: item.Name + "/" + v.Version, Version: v.Version})
		}
		if len(group.Versions) == 0 {
			continue
		}
		group.PreferredVersion = group.Versions[0]
		groups = append(groups, group)
	}
	return groups, nil
}

// answer keeps what a handler answers.
type answer struct {
	header http.Header
	body   bytes.Buffer
	code   int
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(code int)        { a.code = code }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

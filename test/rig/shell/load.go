package main

import (
	_ "embed"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"portico.dev/portico/internal/core/catalog"
)

//go:embed services.yaml
var ownServices string

// load reads Services with their EndpointSlices from files, or the program's own.
func load(files []string) ([]catalog.View, error) {
	if len(files) == 0 {
		return parse("services.yaml", ownServices)
	}
	var all []catalog.View
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		views, err := parse(file, string(raw))
		if err != nil {
			return nil, err
		}
		all = append(all, views...)
	}
	return all, nil
}

// parse reads one file: each Service before its slices.
func parse(file, text string) (views []catalog.View, err error) {
	place := map[types.NamespacedName]int{}
	for i, doc := range strings.Split(text, "\n---") {
		fail := func(err error) ([]catalog.View, error) {
			return nil, fmt.Errorf("%s, document %d: %w", file, i+1, err)
		}
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			return fail(err)
		}
		switch kind.Kind {
		case "Service":
			var o corev1.Service
			if err := yaml.UnmarshalStrict([]byte(doc), &o); err != nil {
				return fail(err)
			}
			s := catalog.FromService(&o)
			place[s.Name] = len(views)
			views = append(views, catalog.View{Name: s.Name, Service: s})
		case "EndpointSlice":
			var o discoveryv1.EndpointSlice
			if err := yaml.UnmarshalStrict([]byte(doc), &o); err != nil {
				return fail(err)
			}
			s := catalog.FromSlice(&o)
			if s == nil {
				return fail(fmt.Errorf("EndpointSlice %s has no label %s", o.Name, discoveryv1.LabelServiceName))
			}
			at, ok := place[s.Service]
			if !ok {
				return fail(fmt.Errorf("EndpointSlice %s stands before its Service %s", o.Name, s.Service))
			}
			views[at].Slices = append(views[at].Slices, s)
		default:
			return fail(fmt.Errorf("%q is neither Service nor EndpointSlice", kind.Kind))
		}
	}
	return views, nil
}

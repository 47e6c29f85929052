package apiserver_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver/apitest"
)

// target is a server that fuzzed requests go to. Whatever a client sends, the answer
// is not the server's fault: below 500, where a panic would be seen too.
type target struct {
	s      *apitest.Server
	client *http.Client
}

func newTarget(f *testing.F) target {
	s := start(f)
	client, err := rest.HTTPClientFor(s.Config)
	if err != nil {
		f.Fatal(err)
	}
	tg := target{s, client}
	tg.send(f, "POST", servicesPath, "application/json", []byte(`{"metadata":{"name":"web"},"spec":{"ports":[{"port":80}]}}`))
	return tg
}

// requestTimeout is far above what any answer takes: one that hangs is a mistake too.
const requestTimeout = 30 * time.Second

func (tg target) send(t testing.TB, method, path, contentType string, body []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "https://"+strings.TrimPrefix(tg.s.Config.Host, "https://")+path, bytes.NewReader(body))
	if err != nil {
		return // nothing that could be sent
	}
	req.Header.Set("Content-Type", contentType)
	resp, err := tg.client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 500 {
		t.Fatalf("%s %s, %s %q: %d, %v\n%s", method, path, contentType, body, resp.StatusCode, err, answer)
	}
}

// serviceSeeds are bodies that reach far.
var serviceSeeds = []string{
	`{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","labels":{"a":"b"}},"spec":{"selector":{"a":"b"},"ports":[{"name":"a","port":80,"targetPort":"http","nodePort":30001}],"type":"NodePort"}}`,
	`{"metadata":{"name":"web","finalizers":["a.b/c"],"ownerReferences":[{"apiVersion":"v1","kind":"X","name":"x","uid":"u"}]},"spec":{"type":"ExternalName","externalName":"a."}}`,
	`{"metadata":{"name":"web"},"spec":{"clusterIPs":["10.96.0.9","fd00:10:96::9"],"clusterIP":"10.96.0.9","ipFamilyPolicy":"PreferDualStack","ipFamilies":["IPv4"],"ports":[{"port":80}]}}`,
	`{"metadata":{"name":"web"},"spec":{"type":"LoadBalancer","externalTrafficPolicy":"Local","healthCheckNodePort":30009,"loadBalancerSourceRanges":["192.0.2.0/24"],"externalIPs":["192.0.2.1"],"ports":[{"port":80}]},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}`,
	`{"metadata":{"name":"web"},"spec":{"ipFamily":"IPv4","topologyKeys":["a","*"],"ports":[{"port":80}],"sessionAffinityConfig":{"clientIP":{"timeoutSeconds":1}}}}`,
	`{"metadata":{"name":"web"},"spec":{"ports":{"port":80}}}`,
	"apiVersion: v1\nkind: Service\nmetadata: &m {name: web}\nspec:\n  topologyKeys: [a]\n  ports: [{port: 80, port: 81}]\n",
	`{"metadata":{"name":"web","managedFields":[{"manager":"a","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:ports":{}}}}]},"spec":{"$patch":"replace","ports":[{"$patch":"delete","port":80}]}}`,
	`{"spec":{"$retainKeys":["ports"],"$setElementOrder/ports":[{"port":80}],"$deleteFromPrimitiveList/externalIPs":["1.2.3.4"]}}`,
	`[{"op":"test","path":"/spec/ports/0/port","value":80},{"op":"copy","from":"/spec/ports/0","path":"/spec/ports/-"},{"op":"move","from":"/spec/type","path":"/spec/x"}]`,
	`[{"op":"replace","path":"/spec/ipFamily","value":"IPv6"},{"op":"remove","path":"/metadata"}]`,
	`[{"op":"add","path":"/spec/ports/-1","value":null},{"op":"remove","path":""},{"op":"replace","path":"/spec","value":1}]`,
	`null`, `[]`, `{`, `"a"`, `{"spec":null,"metadata":null}`,
}

// API-05, API-09, API-12.
func FuzzServiceBody(f *testing.F) {
	tg := newTarget(f)
	for _, body := range serviceSeeds {
		for kind := range byte(len(bodyKinds)) {
			f.Add(kind, []byte(body))
		}
	}
	for kind := range byte(len(bodyKinds)) {
		f.Add(kind, protobufService(f, intstr.FromString("web")))
	}
	f.Add(byte(2), protobufService(f, intstr.IntOrString{Type: 2}))
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		k := bodyKinds[int(kind)%len(bodyKinds)]
		tg.send(t, k.method, servicesPath+k.path, k.contentType, body)
	})
}

// protobufService is a Service with a port of this target, in protobuf.
func protobufService(t testing.TB, target intstr.IntOrString) []byte {
	t.Helper()
	svc := &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, TargetPort: target}}},
	}
	var b bytes.Buffer
	if err := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme).Encode(svc, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// bodyKinds are the ways to write a Service. What would leave more and more objects
// behind is a dry run.
var bodyKinds = []struct{ method, path, contentType string }{
	{"POST", "?dryRun=All&fieldValidation=Strict", "application/json"},
	{"POST", "?dryRun=All&fieldValidation=Ignore", "application/yaml"},
	{"POST", "?dryRun=All", "application/vnd.kubernetes.protobuf"},
	{"POST", "?dryRun=All", "application/cbor"},
	{"PUT", "/web", "application/json"},
	{"PUT", "/web?fieldValidation=Strict", "application/yaml"},
	{"PUT", "/web", "application/vnd.kubernetes.protobuf"},
	{"PATCH", "/web", mergePatch},
	{"PATCH", "/web?fieldValidation=Ignore", mergePatch},
	{"PATCH", "/web", strategicPatch},
	{"PATCH", "/web?fieldValidation=Strict", strategicPatch},
	{"PATCH", "/web", jsonPatch},
	{"PATCH", "/web?fieldValidation=Ignore", jsonPatch},
	{"PATCH", "/web?fieldManager=fuzz", applyPatch},
	{"PATCH", "/web?fieldManager=fuzz&force=true", applyPatch},
	{"PATCH", "/new?fieldManager=fuzz&dryRun=All", applyPatch},
	{"PATCH", "/web/status", mergePatch},
	{"PATCH", "/web/status?fieldManager=fuzz", applyPatch},
	{"PUT", "/web/status", "application/json"},
	{"DELETE", "/web?dryRun=All", "application/json"},
	{"DELETE", "?dryRun=All", "application/vnd.kubernetes.protobuf"},
}

// API-09: selectors, continue tokens, versions and options in the query.
func FuzzServiceQuery(f *testing.F) {
	tg := newTarget(f)
	const token = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiJhIn0" // {"v":"meta.k8s.io/v1","rv":5,"start":"a"}
	for _, seed := range [][5]string{
		{"a=b,c in (d,e),!f", "spec.type=NodePort,metadata.name!=x", token, "0", "2"},
		{"a>1", "spec.clusterIP=None", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiLi4vLi4vIn0", "", "-1"},
		{"", `a\,b=c`, "", "99999999999999999999", "9223372036854775807"},
		{"=", "=", "=", "=", "="},
		{"notin ()", "metadata.name", "", "18446744073709551615", "1"},
	} {
		for kind := range byte(6) {
			f.Add(kind, seed[0], seed[1], seed[2], seed[3], seed[4])
		}
	}
	f.Fuzz(func(t *testing.T, kind byte, labels, fields, token, version, limit string) {
		query := url.Values{}
		set := func(name, value string) {
			if value != "" {
				query.Set(name, value)
			}
		}
		set("labelSelector", labels)
		set("fieldSelector", fields)
		set("continue", token)
		set("limit", limit)
		method := "GET"
		switch kind % 6 {
		case 0:
			set("resourceVersion", version)
		case 1:
			set("resourceVersion", version)
			query.Set("resourceVersionMatch", "Exact")
		case 2:
			set("resourceVersion", version)
			query.Set("resourceVersionMatch", "NotOlderThan")
		case 3:
			query.Set("dryRun", "All")
			set("gracePeriodSeconds", version)
			set("propagationPolicy", limit)
			method = "DELETE"
		case 4: // a watch that is over before it begins
			set("timeoutSeconds", version)
			query.Set("watch", limit)
			if watches(query) {
				return
			}
		case 5:
			set("resourceVersionMatch", version)
			set("fieldValidation", limit)
			set("pretty", token)
		}
		tg.send(t, method, servicesPath+"?"+query.Encode(), "", nil)
	})
}

// watches reports whether a list would become a watch, which has no end.
func watches(query url.Values) bool {
	w := strings.ToLower(query.Get("watch"))
	return w != "" && w != "0" && w != "false"
}

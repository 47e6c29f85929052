package apiserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"

	"portico.dev/portico/internal/apiserver/apitest"
)

const (
	admissionPath = "/apis/admissionregistration.k8s.io/v1/"
	configMaps    = "/api/v1/namespaces/default/configmaps"
)

// hookServer is a webhook over HTTPS with a certificate for names.
type hookServer struct {
	*httptest.Server
	bundle string // its certificate, as caBundle
	calls  atomic.Int64
}

func newHook(t *testing.T, address string, names []string, answer func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse) *hookServer {
	t.Helper()
	h := &hookServer{}
	h.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.calls.Add(1)
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
			http.Error(w, "not a review", http.StatusBadRequest)
			return
		}
		review.Response = answer(review.Request)
		if review.Response == nil {
			<-r.Context().Done() // never answers
			return
		}
		review.Response.UID = review.Request.UID
		_ = json.NewEncoder(w).Encode(review)
	}))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	h.Listener.Close()
	h.Listener = listener
	cert, bundle := selfSigned(t, names)
	h.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	h.bundle = bundle
	h.StartTLS()
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
	})
	return h
}

func selfSigned(t *testing.T, names []string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hook"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, base64.StdEncoding.EncodeToString(block)
}

// configuration is a webhook configuration with one webhook; more is further JSON.
func configuration(kind, name, client, rule, more string) string {
	return fmt.Sprintf(`{"apiVersion":"admissionregistration.k8s.io/v1","kind":%q,"metadata":{"name":%q},"webhooks":[{
		"name":"%s.example.org","clientConfig":%s,"rules":[%s],"sideEffects":"None","admissionReviewVersions":["v1"]%s}]}`, kind, name, name, client, rule, more)
}

func (h *hookServer) url() string {
	return fmt.Sprintf(`{"url":%q,"caBundle":%q}`, h.URL+"/hook", h.bundle)
}

func rule(group, resource, operation string) string {
	return fmt.Sprintf(`{"apiGroups":[%q],"apiVersions":["*"],"resources":[%q],"operations":[%q]}`, group, resource, operation)
}

// inForce waits until a create is refused or answered as wanted: admission learns of
// configurations by a watch.
func inForce(t *testing.T, s *apitest.Server, path, body string, code int, part string) answer {
	t.Helper()
	var last answer
	apitest.Eventually(t, "the configuration in force: "+part, func() error {
		last = ask(t, s, "POST", path+"?dryRun=All", body)
		if last.code != code || !strings.Contains(last.body+strings.Join(last.warnings, "\n"), part) {
			return fmt.Errorf("%d: %s", last.code, last.body)
		}
		return nil
	})
	return last
}

// Webhooks by URL deny with their own words, change objects, and are asked only where
// their rules and conditions match; also for custom resources' and KubeVirt's objects.
func TestWebhooksByURL(t *testing.T) {
	t.Parallel()
	s := start(t)
	ask(t, s, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", poolCRD).want(t, 201)
	deny := newHook(t, "127.0.0.1:0", nil, func(r *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		if strings.HasPrefix(r.Name, "bad") {
			out := &admissionv1.AdmissionResponse{Warnings: []string{"think again"}}
			if err := json.Unmarshal([]byte(`{"message":"`+r.Kind.Kind+` names must be good","code":403}`), &out.Result); err != nil {
				t.Error(err)
			}
			return out
		}
		return &admissionv1.AdmissionResponse{Allowed: true}
	})
	ask(t, s, "POST", admissionPath+"validatingwebhookconfigurations", configuration("ValidatingWebhookConfiguration", "deny", deny.url(),
		rule("*", "*", "CREATE"), `,"matchConditions":[{"name":"not-exempt","expression":"!has(object.metadata.labels) || !('exempt' in object.metadata.labels)"}]`)).
		want(t, 201, `"failurePolicy":"Fail"`, `"timeoutSeconds":10`, `"matchPolicy":"Equivalent"`, `"generation":1`)
	const words = `admission webhook "deny.example.org" denied the request: `
	got := inForce(t, s, configMaps, `{"metadata":{"name":"bad"}}`, 403, words[:17])
	got.want(t, 403, words+"ConfigMap names must be good", "think again")
	ask(t, s, "POST", configMaps, `{"metadata":{"name":"good"}}`).want(t, 201)
	before := deny.calls.Load()
	ask(t, s, "POST", configMaps, `{"metadata":{"name":"bad-exempt","labels":{"exempt":""}}}`).want(t, 201)
	if after := deny.calls.Load(); after != before {
		t.Errorf("the webhook was called %d times although its condition doesn't match", after-before)
	}
	apitest.Eventually(t, "the custom resource", func() error {
		a := ask(t, s, "POST", "/apis/example.dev/v1/namespaces/default/pools", `{"apiVersion":"example.dev/v1","kind":"Pool","metadata":{"name":"bad"}}`)
		if a.code != 403 {
			return fmt.Errorf("%d: %s", a.code, a.body)
		}
		a.want(t, 403, words+"Pool names must be good")
		return nil
	})
	ask(t, s, "POST", vmsPath, vm("bad", "", halted)).
		want(t, 403, words+"VirtualMachine names must be good")

	mutate := newHook(t, "127.0.0.1:0", nil, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		form := admissionv1.PatchTypeJSONPatch
		return &admissionv1.AdmissionResponse{Allowed: true, PatchType: &form, Patch: []byte(`[{"op":"add","path":"/metadata/annotations","value":{"changed":"yes"}}]`)}
	})
	ask(t, s, "POST", admissionPath+"mutatingwebhookconfigurations", configuration("MutatingWebhookConfiguration", "change", mutate.url(), rule("*", "*", "CREATE"), "")).
		want(t, 201, `"reinvocationPolicy":"Never"`)
	inForce(t, s, configMaps, `{"metadata":{"name":"x"}}`, 201, `"changed":"yes"`)
	ask(t, s, "POST", "/apis/example.dev/v1/namespaces/default/pools", `{"apiVersion":"example.dev/v1","kind":"Pool","metadata":{"name":"x"}}`).want(t, 201, `"changed":"yes"`)
	ask(t, s, "POST", vmsPath, vm("x", "", halted)).
		want(t, 201, `"changed":"yes"`)
	ask(t, s, "POST", "/api/v1/namespaces/default/services", `{"metadata":{"name":"x"},"spec":{"ports":[{"port":80}]}}`).want(t, 201, `"changed":"yes"`, `"targetPort":80`)
	// A webhook can't lock its own configuration away.
	ask(t, s, "DELETE", admissionPath+"mutatingwebhookconfigurations/change", "").want(t, 200)
}

// A webhook that doesn't answer refuses the write under Fail, and is passed by under
// Ignore; after a restart it is in force before the first write.
func TestWebhookThatNeverAnswers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := apitest.StartIn(t, dir)
	makeNamespace(t, s, "default")
	silent := newHook(t, "127.0.0.1:0", nil, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse { return nil })
	ask(t, s, "POST", admissionPath+"validatingwebhookconfigurations", configuration("ValidatingWebhookConfiguration", "silent", silent.url(),
		rule("", "configmaps", "CREATE"), `,"timeoutSeconds":1`)).want(t, 201)
	const words = `failed calling webhook "silent.example.org"`
	inForce(t, s, configMaps, `{"metadata":{"name":"x"}}`, 500, words[:14]).want(t, 500, words, "context deadline exceeded")
	s.Stop()
	s = apitest.StartIn(t, dir)
	ask(t, s, "POST", configMaps, `{"metadata":{"name":"x"}}`).want(t, 500, words)
	askAs(t, s, "PATCH", admissionPath+"validatingwebhookconfigurations/silent", "application/json-patch+json",
		`[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]`).want(t, 200, `"generation":2`)
	inForce(t, s, configMaps, `{"metadata":{"name":"x"}}`, 201, "")
}

// A webhook behind a Service is dialled at an endpoint of the Service, by its name.
func TestWebhookByService(t *testing.T) {
	t.Parallel()
	address, err := ownAddress()
	if err != nil {
		t.Skip(err) // endpoints may not be loopback
	}
	s := start(t)
	hook := newHook(t, net.JoinHostPort(address, "0"), []string{"hook.default.svc"}, func(*admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{}
	})
	port := hook.Listener.Addr().(*net.TCPAddr).Port
	ask(t, s, "POST", admissionPath+"validatingwebhookconfigurations", configuration("ValidatingWebhookConfiguration", "by-service",
		fmt.Sprintf(`{"service":{"namespace":"default","name":"hook","path":"/hook"},"caBundle":%q}`, hook.bundle), rule("", "configmaps", "CREATE"), "")).
		want(t, 201, `"port":443`)
	inForce(t, s, configMaps, `{"metadata":{"name":"x"}}`, 500, `services \"hook\" not found`)
	ask(t, s, "POST", "/api/v1/namespaces/default/services", `{"metadata":{"name":"hook"},"spec":{"ports":[{"name":"https","port":443,"targetPort":9443}]}}`).want(t, 201)
	inForce(t, s, configMaps, `{"metadata":{"name":"x"}}`, 500, "no endpoints available for service")
	ask(t, s, "POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", fmt.Sprintf(
		`{"metadata":{"name":"hook","labels":{"kubernetes.io/service-name":"hook"}},"addressType":"IPv4","ports":[{"name":"https","port":%d}],"endpoints":[{"addresses":[%q],"conditions":{"ready":true}}]}`,
		port, address)).want(t, 201)
	inForce(t, s, configMaps, `{"metadata":{"name":"x"}}`, 400, `denied the request without explanation`)
}

func ownAddress() (string, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("this host has no IPv4 address but loopback")
}

// A ValidatingAdmissionPolicy takes its limit from a parameter and says so in a message
// of its own; a MutatingAdmissionPolicy fills a label.
func TestPolicies(t *testing.T) {
	t.Parallel()
	s := start(t)
	const match = `"matchConstraints":{"resourceRules":[{"apiGroups":[""],"apiVersions":["v1"],"resources":["services"],"operations":["CREATE","UPDATE"]}]}`
	ask(t, s, "POST", configMaps, `{"metadata":{"name":"limits"},"data":{"ports":"2"}}`).want(t, 201)
	ask(t, s, "POST", admissionPath+"validatingadmissionpolicies", `{"metadata":{"name":"few-ports"},"spec":{`+match+`,"paramKind":{"apiVersion":"v1","kind":"ConfigMap"},
		"variables":[{"name":"most","expression":"int(params.data.ports)"}],
		"validations":[{"expression":"size(object.spec.ports) <= variables.most","messageExpression":"'at most ' + string(variables.most) + ' ports, not ' + string(size(object.spec.ports))","reason":"Forbidden"}]}}`).
		want(t, 201, `"failurePolicy":"Fail"`)
	ask(t, s, "POST", admissionPath+"validatingadmissionpolicybindings", `{"metadata":{"name":"few-ports"},"spec":{"policyName":"few-ports",
		"paramRef":{"name":"limits","namespace":"default","parameterNotFoundAction":"Deny"},"validationActions":["Deny"]}}`).want(t, 201)
	const services = "/api/v1/namespaces/default/services"
	const many = `{"metadata":{"name":"many"},"spec":{"ports":[{"name":"a","port":1},{"name":"b","port":2},{"name":"c","port":3}]}}`
	inForce(t, s, services, many, 403, "ValidatingAdmissionPolicy 'few-ports' with binding 'few-ports' denied request: at most 2 ports, not 3")
	ask(t, s, "POST", services, `{"metadata":{"name":"few"},"spec":{"ports":[{"port":1}]}}`).want(t, 201)

	ask(t, s, "POST", admissionPath+"mutatingadmissionpolicies", `{"metadata":{"name":"team"},"spec":{`+match+`,"reinvocationPolicy":"Never",
		"mutations":[{"patchType":"ApplyConfiguration","applyConfiguration":{"expression":"Object{metadata: Object.metadata{labels: {'team': 'blue'}}}"}}]}}`).want(t, 201)
	ask(t, s, "POST", admissionPath+"mutatingadmissionpolicybindings", `{"metadata":{"name":"team"},"spec":{"policyName":"team"}}`).want(t, 201)
	inForce(t, s, services, `{"metadata":{"name":"one"},"spec":{"ports":[{"port":1}]}}`, 201, `"team":"blue"`)
}

// What a server would later choke on is refused when it is written, field by field.
func TestConfigurationsAreChecked(t *testing.T) {
	t.Parallel()
	s := start(t)
	ask(t, s, "POST", admissionPath+"validatingwebhookconfigurations", `{"metadata":{"name":"bad"},"webhooks":[{"name":"short","clientConfig":{"url":"http://x"},
		"rules":[{"apiGroups":["*","apps"],"apiVersions":["v1"],"resources":["pods"],"operations":["MAKE"]}],"sideEffects":"Some","timeoutSeconds":31,
		"admissionReviewVersions":["v2"],"failurePolicy":"Retry","matchConditions":[{"name":"x","expression":"object.a +"}]}]}`).
		want(t, 422, "webhooks[0].name", "should be a domain with at least three segments", "'https' is the only allowed URL scheme", "if '*' is present, must not specify other API groups",
			`webhooks[0].rules[0].operations[0]: Unsupported value: "MAKE"`, `webhooks[0].sideEffects: Unsupported value: "Some"`,
			"the timeout value must be between 1 and 30 seconds", "must include at least one of v1, v1beta1", `failurePolicy: Unsupported value: "Retry"`,
			"webhooks[0].matchConditions[0].expression: Invalid value: ", "compilation failed")
	ask(t, s, "POST", admissionPath+"mutatingwebhookconfigurations", `{"metadata":{"name":"bad"},"webhooks":[{"name":"a.b.c","clientConfig":{},"sideEffects":"None","admissionReviewVersions":["v1"]}]}`).
		want(t, 422, "exactly one of url or service is required")
	ask(t, s, "POST", admissionPath+"validatingadmissionpolicies", `{"metadata":{"name":"bad"},"spec":{"validations":[{"expression":"1 + 1"}],"matchConstraints":{}}}`).
		want(t, 422, "spec.matchConstraints.resourceRules: Required", "spec.validations[0].expression", "must evaluate to bool but got int")
	ask(t, s, "POST", admissionPath+"validatingadmissionpolicybindings", `{"metadata":{"name":"bad"},"spec":{}}`).
		want(t, 422, "spec.policyName: Required", "at least one validation action is required")
	ask(t, s, "POST", admissionPath+"mutatingadmissionpolicies", `{"metadata":{"name":"bad"},"spec":{"reinvocationPolicy":"Never","matchConstraints":{"resourceRules":[{"apiGroups":[""],"apiVersions":["v1"],"resources":["pods"],"operations":["CREATE"]}]},
		"mutations":[{"patchType":"JSONPatch","jsonPatch":{"expression":"'x'"}}]}}`).want(t, 422, "spec.mutations[0].jsonPatch.expression", "must evaluate to")
}

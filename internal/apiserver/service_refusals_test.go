package apiserver_test

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// API-05: everything that is wrong comes in one answer, each field with the path, the
// reason and the words that clients of Kubernetes know.
func TestServiceRefusals(t *testing.T) {
	t.Parallel()
	s := start(t)
	got := ask(t, s, "POST", servicesPath, `{"metadata":{"name":"web"},"spec":{
		"type":"NodePort","clusterIP":"10.96.000.1","ipFamilies":["IPv4","IPv4"],"ipFamilyPolicy":"Both",
		"ports":[{"port":0,"targetPort":70000},{"name":"A","port":80,"protocol":"ICMP"},{"name":"c","port":81,"nodePort":30001},{"name":"c","port":81,"nodePort":30001,"appProtocol":"a b"}],
		"selector":{"a":"b c"},"sessionAffinity":"Cookie","externalIPs":["127.0.0.1","x"],
		"loadBalancerClass":"a","loadBalancerSourceRanges":["192.0.2.0/24"],"allocateLoadBalancerNodePorts":true,
		"externalTrafficPolicy":"Near","internalTrafficPolicy":"Near","healthCheckNodePort":30002,"trafficDistribution":"Near"}}`)
	want := []string{
		"spec.allocateLoadBalancerNodePorts FieldValueForbidden Forbidden: may only be used when `type` is 'LoadBalancer'",
		"spec.clusterIPs[0] FieldValueInvalid Invalid value: \"10.96.000.1\": must not have leading 0s",
		"spec.externalIPs[0] FieldValueInvalid Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
		"spec.externalIPs[1] FieldValueInvalid Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
		"spec.externalTrafficPolicy FieldValueNotSupported Unsupported value: \"Near\": supported values: \"Cluster\", \"Local\"",
		"spec.healthCheckNodePort FieldValueInvalid Invalid value: 30002: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
		"spec.internalTrafficPolicy FieldValueNotSupported Unsupported value: \"Near\": supported values: \"Cluster\", \"Local\"",
		"spec.ipFamilies[1] FieldValueDuplicate Duplicate value: \"IPv4\"",
		"spec.ipFamilyPolicy FieldValueNotSupported Unsupported value: \"Both\": supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
		"spec.loadBalancerClass FieldValueForbidden Forbidden: may only be used when `type` is 'LoadBalancer'",
		"spec.LoadBalancerSourceRanges FieldValueForbidden Forbidden: may only be used when `type` is 'LoadBalancer'",
		"spec.ports[0].name FieldValueRequired Required value",
		"spec.ports[0].port FieldValueInvalid Invalid value: 0: must be between 1 and 65535, inclusive",
		"spec.ports[0].targetPort FieldValueInvalid Invalid value: 70000: must be between 1 and 65535, inclusive",
		"spec.ports[1].name FieldValueInvalid Invalid value: \"A\": a lowercase RFC 1123 label",
		"spec.ports[1].protocol FieldValueNotSupported Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
		"spec.ports[3] FieldValueDuplicate Duplicate value: {\"protocol\":\"TCP\",\"port\":81,\"targetPort\":0}",
		"spec.ports[3].appProtocol FieldValueInvalid Invalid value: \"a b\": name part must consist of",
		"spec.ports[3].name FieldValueDuplicate Duplicate value: \"c\"",
		"spec.ports[3].nodePort FieldValueDuplicate Duplicate value: 30001",
		"spec.selector FieldValueInvalid Invalid value: \"b c\": a valid label must be an empty string or consist of",
		"spec.sessionAffinity FieldValueNotSupported Unsupported value: \"Cookie\": supported values: \"ClientIP\", \"None\"",
		"spec.trafficDistribution FieldValueNotSupported Unsupported value: \"Near\": supported values: \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
	}
	checkCauses(t, got, want)
	checkClaims(t, s)

	// An update is told what may not change as well.
	ask(t, s, "POST", servicesPath, `{"metadata":{"name":"lb"},"spec":{"type":"LoadBalancer","externalTrafficPolicy":"Local","loadBalancerClass":"a","ports":[{"port":80}]}}`).want(t, 201)
	got = askAs(t, s, "PATCH", servicesPath+"/lb", mergePatch, `{"spec":{"loadBalancerClass":"b","healthCheckNodePort":30009,"clusterIP":"10.96.0.7","ports":[]}}`)
	checkCauses(t, got, []string{
		"spec.clusterIPs[0] FieldValueInvalid Invalid value: [\"10.96.0.7\"]: may not change once set",
		"spec.healthCheckNodePort FieldValueForbidden Forbidden: field is immutable",
		"spec.loadBalancerClass FieldValueInvalid Invalid value: \"b\": may not change once set",
		"spec.ports FieldValueRequired Required value",
	})

	// Names (they may begin with a digit), and what a Service of that name can't be.
	for name, want := range map[string]string{
		"9lives": "", "a.b": "must not contain dots", "Web": "a lowercase RFC 1123 label", "": "name or generateName is required",
	} {
		code := 422
		if want == "" {
			code = 201
		}
		ask(t, s, "POST", servicesPath, `{"metadata":{"name":"`+name+`"},"spec":{"ports":[{"port":80}]}}`).want(t, code, want)
	}

	// What only protobuf can say, and the library would panic at.
	askAs(t, s, "POST", servicesPath, "application/vnd.kubernetes.protobuf", string(protobufService(t, intstr.IntOrString{Type: 2}))).
		want(t, 400, "an IntOrString is of type 2, which is neither Int (0) nor String (1)", "TargetPort")

	// Ports as a map, in each form in which a client may send it.
	const advice = `spec.ports is a list: put "- " before its first key`
	for _, tc := range []struct {
		method, path, contentType, body string
		code                            int
	}{
		{"POST", servicesPath, "application/json", `{"metadata":{"name":"map"},"spec":{"ports": {"port":80}}}`, 400},
		{"POST", servicesPath, "application/yaml", "metadata: {name: map}\nspec:\n  ports:\n    port: 80\n", 400},
		{"PUT", servicesPath + "/lb", "application/json", `{"metadata":{"name":"lb"},"spec":{"ports":{"port":80}}}`, 400},
		{"PATCH", servicesPath + "/lb", mergePatch, `{"spec":{"ports":{"port":80}}}`, 422},
		{"PATCH", servicesPath + "/lb?fieldManager=test", "application/apply-patch+yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: lb}\nspec: {ports: {port: 80}}", 400},
		{"PATCH", servicesPath + "/lb", "application/strategic-merge-patch+json", `{"spec":{"ports":{"port":80}}}`, 422},
	} {
		askAs(t, s, tc.method, tc.path, tc.contentType, tc.body).want(t, tc.code, advice)
	}
}

// checkCauses compares the causes of a 422; where the end of a message is the
// library's, its beginning is enough.
func checkCauses(t *testing.T, got answer, want []string) {
	t.Helper()
	got.want(t, 422)
	var status metav1.Status
	decodeInto(t, got, &status)
	var causes []string
	for _, c := range status.Details.Causes {
		causes = append(causes, c.Field+" "+string(c.Type)+" "+c.Message)
	}
	sortCauses(causes)
	want = slices.Clone(want)
	sortCauses(want)
	for i := range max(len(causes), len(want)) {
		switch {
		case i >= len(causes):
			t.Errorf("not reported: %s", want[i])
		case i >= len(want):
			t.Errorf("reported too: %s", causes[i])
		case causes[i] != want[i] && !(len(causes[i]) > len(want[i]) && causes[i][:len(want[i])] == want[i]):
			t.Errorf("got  %s\nwant %s", causes[i], want[i])
		}
	}
}

package service

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"
)

// API-04, and API-05's "affinity config without ClientIP is dropped silently".
func TestSetDefaults(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{
			"a plain Service",
			`ports: [{port: 80}, {port: 53, protocol: UDP, targetPort: dns}, {port: 81, targetPort: ""}]`,
			`{type: ClusterIP, sessionAffinity: None, internalTrafficPolicy: Cluster,
			 ports: [{port: 80, protocol: TCP, targetPort: 80}, {port: 53, protocol: UDP, targetPort: dns}, {port: 81, protocol: TCP, targetPort: 81}]}`,
		},
		{
			"affinity has a timeout",
			`ports: [], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {}}`,
			`{ports: [], type: ClusterIP, internalTrafficPolicy: Cluster, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}}`,
		},
		{
			"no affinity, no configuration",
			`ports: [], sessionAffinityConfig: {clientIP: {timeoutSeconds: 7}}`,
			`{ports: [], type: ClusterIP, internalTrafficPolicy: Cluster, sessionAffinity: None}`,
		},
		{
			"NodePort is reached from outside",
			`ports: [], type: NodePort`,
			`{ports: [], type: NodePort, internalTrafficPolicy: Cluster, externalTrafficPolicy: Cluster, sessionAffinity: None}`,
		},
		{
			"so is a ClusterIP with external IPs",
			`ports: [], externalIPs: [192.0.2.1]`,
			`{ports: [], type: ClusterIP, externalIPs: [192.0.2.1], internalTrafficPolicy: Cluster, externalTrafficPolicy: Cluster, sessionAffinity: None}`,
		},
		{
			"LoadBalancer allocates node ports",
			`ports: [], type: LoadBalancer, externalTrafficPolicy: Local`,
			`{ports: [], type: LoadBalancer, internalTrafficPolicy: Cluster, externalTrafficPolicy: Local, allocateLoadBalancerNodePorts: true, sessionAffinity: None}`,
		},
		{
			"ExternalName has no policies",
			`type: ExternalName, externalName: example.org`,
			`{type: ExternalName, externalName: example.org, sessionAffinity: None}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc := spec(t, tc.in)
			want := svc.DeepCopy()
			want.Spec = parseSpec(t, tc.want)
			if !equality.Semantic.DeepEqual(svc, want) {
				got, _ := yaml.Marshal(svc.Spec)
				t.Errorf("got\n%s", got)
			}
			SetDefaults(svc)
			if !equality.Semantic.DeepEqual(svc, want) {
				t.Error("a second run changed it")
			}
		})
	}
}

func TestSetDefaultsOfIngress(t *testing.T) {
	svc := parse(t, `{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2, ipMode: Proxy}, {hostname: lb.example.org}]}}}`)
	var got []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		got = append(got, string(deref(in.IPMode)))
	}
	if len(got) != 3 || got[0] != "VIP" || got[1] != "Proxy" || got[2] != "" {
		t.Errorf("modes %q", got)
	}
}

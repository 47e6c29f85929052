package service

import "testing"

// API-04, API-07: what a new Service gets, in a cluster with both families and IPv4
// first ("dual"), with IPv6 first ("dual6"), and with IPv4 alone ("single").
func TestFamiliesOnCreate(t *testing.T) {
	for _, tc := range []struct{ name, cluster, in, want string }{
		{"default", "dual", ``, `policy=SingleStack families=[IPv4]`},
		{"default follows the primary family", "dual6", ``, `policy=SingleStack families=[IPv6]`},
		{"single-stack cluster", "single", ``, `policy=SingleStack families=[IPv4]`},
		{"prefer both", "dual", `ipFamilyPolicy: PreferDualStack`, `policy=PreferDualStack families=[IPv4 IPv6]`},
		{"prefer both, IPv6 first", "dual", `ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6]`, `policy=PreferDualStack families=[IPv6 IPv4]`},
		{"prefer both where there is one", "single", `ipFamilyPolicy: PreferDualStack`, `policy=PreferDualStack families=[IPv4]`},
		{"require both", "dual6", `ipFamilyPolicy: RequireDualStack`, `policy=RequireDualStack families=[IPv6 IPv4]`},
		{"require both where there is one", "single", `ipFamilyPolicy: RequireDualStack`, `spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`},
		{"the other family", "dual", `ipFamilies: [IPv6]`, `policy=SingleStack families=[IPv6]`},
		{"a family the cluster lacks", "single", `ipFamilies: [IPv6]`, `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`},
		{"two families need a policy", "dual", `ipFamilies: [IPv4, IPv6]`, `spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified`},
		{"clusterIP fills clusterIPs and the family", "dual", `clusterIP: "fd00:10:96::5"`, `policy=SingleStack families=[IPv6] ip=fd00:10:96::5 ips=[fd00:10:96::5]`},
		{"an address chosen, the other not", "dual", `clusterIP: 10.96.0.5, ipFamilyPolicy: PreferDualStack`, `policy=PreferDualStack families=[IPv4 IPv6] ip=10.96.0.5 ips=[10.96.0.5]`},
		{"both addresses chosen", "dual", `clusterIP: "fd00:10:96::5", clusterIPs: ["fd00:10:96::5", 10.96.0.5], ipFamilyPolicy: RequireDualStack`, `policy=RequireDualStack families=[IPv6 IPv4] ip=fd00:10:96::5 ips=[fd00:10:96::5 10.96.0.5]`},
		{"both addresses need a policy", "dual", `clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5, "fd00:10:96::5"]`, `spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified`},
		{"an address of a family the cluster lacks", "single", `clusterIP: "fd00:10:96::5"`, `spec.clusterIPs[0]: Invalid value: ["fd00:10:96::5"]: IPv6 is not configured on this cluster`},
		{"an address of another family than listed", "dual", `clusterIP: "fd00:10:96::5", ipFamilies: [IPv4]`, `spec.clusterIPs[0]: Invalid value: "fd00:10:96::5": expected an IPv4 value as indicated by ` + "`ipFamilies[0]`"},
		{"clusterIPs without clusterIP", "dual", `clusterIPs: [10.96.0.5]`, `spec.clusterIPs: Invalid value: ["10.96.0.5"]: must be empty when ` + "`clusterIP` is not specified"},
		{"clusterIPs unlike clusterIP", "dual", `clusterIP: 10.96.0.6, clusterIPs: [10.96.0.5]`, `spec.clusterIPs: Invalid value: ["10.96.0.5"]: first value must match ` + "`clusterIP`"},
		{"two of one family", "dual", `clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5, 10.96.0.6], ipFamilyPolicy: PreferDualStack`, `spec.clusterIPs: Invalid value: ["10.96.0.5","10.96.0.6"]: may specify no more than one IP for each IP family`},
		{"three", "dual", `clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5, "fd00::1", 10.96.0.6], ipFamilyPolicy: PreferDualStack`, `spec.clusterIPs: Invalid value: ["10.96.0.5","fd00::1","10.96.0.6"]: may only hold up to 2 values`},
		{"None and an address", "dual", `clusterIP: None, clusterIPs: [None, 10.96.0.5]`, `spec.clusterIPs: Invalid value: ["None","10.96.0.5"]: 'None' must be the first and only value`},
		{"no address", "dual", `clusterIP: here`, `spec.clusterIPs[0]: Invalid value: "here": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
		{"leading zeros", "dual", `clusterIP: 10.96.000.5`, `spec.clusterIPs[0]: Invalid value: "10.96.000.5": must not have leading 0s`},
		{"family unknown and twice", "dual", `ipFamilies: [IPv5, IPv5]`, `spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"
spec.ipFamilies[1]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"
spec.ipFamilies[1]: Duplicate value: "IPv5"`},
		{"policy unknown", "dual", `ipFamilyPolicy: TripleStack`, `spec.ipFamilyPolicy: Unsupported value: "TripleStack": supported values: "PreferDualStack", "RequireDualStack", "SingleStack"`},

		{"headless with selector", "dual", `clusterIP: None, selector: {a: b}`, `policy=SingleStack families=[IPv4] ip=None ips=[None]`},
		{"headless with selector, both", "dual6", `clusterIP: None, selector: {a: b}, ipFamilyPolicy: PreferDualStack`, `policy=PreferDualStack families=[IPv6 IPv4] ip=None ips=[None]`},
		{"headless with selector needs the family", "single", `clusterIP: None, selector: {a: b}, ipFamilies: [IPv6]`, `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`},
		{"selectorless headless", "dual", `clusterIP: None`, `policy=RequireDualStack families=[IPv4 IPv6] ip=None ips=[None]`},
		{"selectorless headless, one family in the cluster", "single", `clusterIP: None`, `policy=RequireDualStack families=[IPv4 IPv6] ip=None ips=[None]`},
		{"selectorless headless of a family the cluster lacks", "single", `clusterIP: None, ipFamilyPolicy: SingleStack, ipFamilies: [IPv6]`, `policy=SingleStack families=[IPv6] ip=None ips=[None]`},
		{"selectorless headless, other family first", "single", `clusterIP: None, ipFamilies: [IPv6]`, `policy=RequireDualStack families=[IPv6 IPv4] ip=None ips=[None]`},
		{"ExternalName has none", "dual", `type: ExternalName, externalName: example.org`, ``},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, svc := clusters[tc.cluster], spec(t, tc.in)
			c.PrepareForCreate(svc)
			got := shape(svc)
			if errs := c.Validate(svc); len(errs) > 0 {
				got = lines(errs)
			}
			compare(t, got, tc.want)
		})
	}
}

// API-06, API-08: what an update of the families does. The old Service is stored with
// 10.96.1.1 and, for IPv6, fd00:10:96::101.
func TestFamiliesOnUpdate(t *testing.T) {
	const both = `policy=PreferDualStack families=[IPv4 IPv6] ip=10.96.1.1 ips=[10.96.1.1 fd00:10:96::101]`
	for _, tc := range []struct{ name, cluster, old, in, want string }{
		{"the same manifest again", "dual", ``, ``, `policy=SingleStack families=[IPv4] ip=10.96.1.1 ips=[10.96.1.1]`},
		{"the same manifest again, both", "dual", `ipFamilyPolicy: PreferDualStack`, `ipFamilyPolicy: PreferDualStack`, both},
		{"the policy left out", "dual", `ipFamilyPolicy: PreferDualStack`, ``, both},
		{"upgrade", "dual", ``, `ipFamilyPolicy: PreferDualStack`, `policy=PreferDualStack families=[IPv4 IPv6] ip=10.96.1.1 ips=[10.96.1.1]`},
		{"upgrade by require", "dual", ``, `ipFamilyPolicy: RequireDualStack`, `policy=RequireDualStack families=[IPv4 IPv6] ip=10.96.1.1 ips=[10.96.1.1]`},
		{"upgrade with a chosen address", "dual", ``, `ipFamilyPolicy: PreferDualStack, clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1, "fd00:10:96::7"]`, `policy=PreferDualStack families=[IPv4 IPv6] ip=10.96.1.1 ips=[10.96.1.1 fd00:10:96::7]`},
		{"upgrade by a family alone", "dual", ``, `ipFamilies: [IPv4, IPv6]`, `spec.ipFamilyPolicy: Invalid value: "SingleStack": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified`},
		{"upgrade with the new one first", "dual", ``, `ipFamilies: [IPv6, IPv4], ipFamilyPolicy: PreferDualStack`, `spec.ipFamilies[0]: Invalid value: ["IPv6","IPv4"]: may not change once set
spec.clusterIPs[0]: Invalid value: "10.96.1.1": expected an IPv6 value as indicated by ` + "`ipFamilies[0]`"},
		{"downgrade by policy alone", "dual", `ipFamilyPolicy: PreferDualStack`, `ipFamilyPolicy: SingleStack`, `policy=SingleStack families=[IPv4] ip=10.96.1.1 ips=[10.96.1.1]`},
		{"downgrade with both listed", "dual", `ipFamilyPolicy: RequireDualStack`, `ipFamilyPolicy: SingleStack, ipFamilies: [IPv4, IPv6], clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1, "fd00:10:96::101"]`, `policy=SingleStack families=[IPv4] ip=10.96.1.1 ips=[10.96.1.1]`},
		{"downgrade to the second", "dual", `ipFamilyPolicy: PreferDualStack`, `ipFamilyPolicy: SingleStack, clusterIP: "fd00:10:96::101", clusterIPs: ["fd00:10:96::101"], ipFamilies: [IPv6]`, `spec.clusterIPs[0]: Invalid value: ["fd00:10:96::101"]: may not change once set
spec.ipFamilies[0]: Invalid value: ["IPv6"]: may not change once set`},
		{"an address left out without a policy", "dual", `ipFamilyPolicy: PreferDualStack`, `clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1]`, `spec.ipFamilyPolicy: Invalid value: "PreferDualStack": must be 'SingleStack' to release the secondary cluster IP`},
		{"a family left out without a policy", "dual", `ipFamilyPolicy: PreferDualStack`, `ipFamilies: [IPv4]`, `spec.ipFamilyPolicy: Invalid value: "PreferDualStack": must be 'SingleStack' to release the secondary IP family`},
		{"the second address is set for good", "dual", `ipFamilyPolicy: PreferDualStack`, `clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1, "fd00:10:96::9"]`, `spec.clusterIPs[1]: Invalid value: ["10.96.1.1","fd00:10:96::9"]: may not change once set`},
		{"the address by an old client", "dual", ``, `clusterIP: 10.96.1.9`, `spec.clusterIPs[0]: Invalid value: ["10.96.1.9"]: may not change once set`},
		{"the family", "dual", ``, `ipFamilies: [IPv6]`, `spec.ipFamilies[0]: Invalid value: ["IPv6"]: may not change once set
spec.clusterIPs[0]: Invalid value: "10.96.1.1": expected an IPv6 value as indicated by ` + "`ipFamilies[0]`"},
		{"an address becomes None", "dual", ``, `clusterIP: None`, `spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set`},
		{"None becomes an address", "dual", `clusterIP: None, selector: {a: b}`, `clusterIP: 10.96.0.9, selector: {a: b}`, `spec.clusterIPs[0]: Invalid value: ["10.96.0.9"]: may not change once set`},
		{"None stays when left out", "dual", `clusterIP: None, selector: {a: b}`, `selector: {a: b}`, `policy=SingleStack families=[IPv4] ip=None ips=[None]`},
		{"headless may change families", "dual", `clusterIP: None, selector: {a: b}`, `clusterIP: None, selector: {a: b}, ipFamilies: [IPv6]`, `policy=SingleStack families=[IPv6] ip=None ips=[None]`},
		{"headless upgrade", "dual", `clusterIP: None, selector: {a: b}`, `clusterIP: None, selector: {a: b}, ipFamilyPolicy: RequireDualStack`, `policy=RequireDualStack families=[IPv4 IPv6] ip=None ips=[None]`},
		{"a headless Service's selector goes", "dual", `clusterIP: None, selector: {a: b}`, `clusterIP: None`, `policy=SingleStack families=[IPv4] ip=None ips=[None]`},
		{"from ExternalName", "dual", `type: ExternalName, externalName: example.org`, `type: ClusterIP`, `policy=SingleStack families=[IPv4]`},
		{"from ExternalName, an address chosen", "dual", `type: ExternalName, externalName: example.org`, `type: ClusterIP, clusterIP: "fd00:10:96::4"`, `policy=SingleStack families=[IPv6] ip=fd00:10:96::4 ips=[fd00:10:96::4]`},
		{"from ExternalName to headless", "dual", `type: ExternalName, externalName: example.org`, `type: ClusterIP, clusterIP: None`, `policy=RequireDualStack families=[IPv4 IPv6] ip=None ips=[None]`},
		{"to ExternalName", "dual", `ipFamilyPolicy: PreferDualStack`, `type: ExternalName, externalName: example.org`, ``},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := clusters[tc.cluster]
			old := stored(t, c, spec(t, tc.old))
			svc := spec(t, tc.in)
			c.PrepareForUpdate(svc, old)
			got := shape(svc)
			if errs := c.ValidateUpdate(svc, old); len(errs) > 0 {
				got = lines(errs)
			}
			compare(t, got, tc.want)
		})
	}
}

// A Service is neither upgraded nor refused because the cluster changed its families.
func TestFamiliesAfterClusterChange(t *testing.T) {
	for _, tc := range []struct {
		name     string
		was, now Cluster
		in       string
	}{
		{"a family gained", single, dual, `ipFamilyPolicy: PreferDualStack`},
		{"a family lost", dual, single, `ipFamilyPolicy: RequireDualStack`},
		{"another primary", dual, dual6, ``},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old := stored(t, tc.was, spec(t, tc.in))
			svc := spec(t, tc.in)
			tc.now.PrepareForUpdate(svc, old)
			if errs := tc.now.ValidateUpdate(svc, old); len(errs) > 0 {
				t.Error(errs)
			}
			compare(t, shape(svc), shape(old))
		})
	}
}

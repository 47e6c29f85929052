package service

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// Whatever two clients send, the rules don't panic, don't touch the stored Service,
// and have nothing left to change in what they let pass.
func FuzzRules(f *testing.F) {
	for _, seed := range [][2]string{
		{`{}`, `{"type":"NodePort"}`},
		{`{"type":"ExternalName","externalName":"a.","ports":[{"nodePort":1}]}`, `{"clusterIP":"None"}`},
		{`{"clusterIP":"None","ports":[]}`, `{"ipFamilies":["IPv6"],"ipFamilyPolicy":"SingleStack"}`},
		{`{"ipFamilyPolicy":"PreferDualStack","ports":[{"port":1}]}`, `{"ipFamilyPolicy":"SingleStack","clusterIPs":["10.96.1.1"]}`},
		{`{"type":"LoadBalancer","externalTrafficPolicy":"Local","ports":[{"port":1,"protocol":"UDP"}]}`, `{"loadBalancerSourceRanges":[" ","x"],"externalIPs":["::ffff:1.2.3.4"]}`},
		{`{"clusterIP":"fd00::1","clusterIPs":["fd00::1","10.0.0.1","x"]}`, `{"sessionAffinity":"ClientIP","sessionAffinityConfig":{}}`},
	} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	read := func(data []byte) *corev1.Service {
		svc := &corev1.Service{}
		svc.Name, svc.Namespace, svc.ResourceVersion = "web", "default", "1"
		if json.Unmarshal(data, &svc.Spec) != nil {
			return nil
		}
		SetDefaults(svc)
		return svc
	}
	f.Fuzz(func(t *testing.T, create, update []byte) {
		old, svc := read(create), read(update)
		if old == nil || svc == nil {
			return
		}
		for _, c := range clusters {
			old, svc := old.DeepCopy(), svc.DeepCopy()
			c.PrepareForCreate(old)
			Warnings(old)
			if len(c.Validate(old)) > 0 {
				continue
			}
			assign(old)
			before := old.DeepCopy()
			c.PrepareForUpdate(svc, old)
			Warnings(svc)
			errs := c.ValidateUpdate(svc, old)
			if !equality.Semantic.DeepEqual(old, before) {
				t.Fatal("the stored Service was changed")
			}
			if len(errs) > 0 {
				continue
			}
			again := svc.DeepCopy()
			SetDefaults(again)
			c.PrepareForUpdate(again, old)
			if errs := c.ValidateUpdate(again, old); len(errs) > 0 || !equality.Semantic.DeepEqual(again, svc) {
				t.Fatalf("a second pass: %v\n%+v\n%+v", errs, svc.Spec, again.Spec)
			}
		}
	})
}

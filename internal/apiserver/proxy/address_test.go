package proxy

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// API-14: the server lends nobody its own place in the network.
func TestAllowed(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"10.245.0.2": true, "192.0.2.1": true, "fd00:10:245::2": true, "2001:db8::1": true,
		"127.0.0.1": false, "127.9.9.9": false, "::1": false, "::ffff:127.0.0.1": false, "0.0.0.0": false, "::": false,
		"169.254.169.254": false, "::ffff:169.254.169.254": false, "fe80::1": false, "224.0.0.1": false, "ff02::1": false,
		"255.255.255.255": false, "fd00:ec2::254": false, "168.63.129.16": false, "100.100.100.200": false,
	} {
		if err := Allowed(netip.MustParseAddr(text)); (err == nil) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestPodPort(t *testing.T) {
	t.Parallel()
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{}, {Ports: []corev1.ContainerPort{
		{Name: "http", ContainerPort: 8080}, {Name: "admin", ContainerPort: 9090},
	}}}}}
	for _, tc := range []struct {
		pod          *corev1.Pod
		scheme, port string
		want         uint16 // 0: refused
	}{
		{pod, "", "", 8080},
		{pod, "", "admin", 9090},
		{pod, "", "81", 81},
		{pod, "", "none", 0},
		{pod, "", "0", 0},
		{pod, "", "65536", 0},
		{pod, "", "-1", 0},
		{&corev1.Pod{}, "", "", 80},
		{&corev1.Pod{}, "https", "", 443},
	} {
		if got, err := podPort(tc.pod, tc.scheme, tc.port); got != tc.want || (err == nil) != (tc.want > 0) {
			t.Errorf("%q %q: got %d, %v, want %d", tc.scheme, tc.port, got, err, tc.want)
		}
	}
}

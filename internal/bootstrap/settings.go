package bootstrap

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// SettingsName is the ConfigMap in kube-system from which nodes learn what all of a
// cluster must agree on. Its keys are the flags of `portico up`.
const SettingsName = "portico-config"

// Settings are what all nodes of a cluster must agree on.
type Settings struct {
	ServiceCIDR   string `json:"service-cidr"`
	ClusterCIDR   string `json:"cluster-cidr"`
	GuestCIDR     string `json:"guest-cidr"`
	ClusterDomain string `json:"cluster-domain"`
}

// Data is the ConfigMap's.
func (s Settings) Data() map[string]string {
	return map[string]string{
		"service-cidr": s.ServiceCIDR, "cluster-cidr": s.ClusterCIDR, "guest-cidr": s.GuestCIDR, "cluster-domain": s.ClusterDomain,
	}
}

// ReadSettings asks the cluster.
func ReadSettings(ctx context.Context, kube kubernetes.Interface) (Settings, error) {
	m, err := kube.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, SettingsName, metav1.GetOptions{})
	if err != nil {
		return Settings{}, fmt.Errorf("read the cluster's settings: %w", err)
	}
	s := settingsOf(m)
	if s.ServiceCIDR == "" || s.ClusterDomain == "" {
		return Settings{}, fmt.Errorf("ConfigMap %s/%s lacks service-cidr or cluster-domain; the server's controllers write it anew when it is deleted", m.Namespace, m.Name)
	}
	return s, nil
}

func settingsOf(m *corev1.ConfigMap) Settings {
	return Settings{
		ServiceCIDR: m.Data["service-cidr"], ClusterCIDR: m.Data["cluster-cidr"],
		GuestCIDR: m.Data["guest-cidr"], ClusterDomain: m.Data["cluster-domain"],
	}
}

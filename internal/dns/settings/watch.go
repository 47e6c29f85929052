package settings

import (
	"context"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/agent"
)

// Watch hands over the ConfigMap's data at first and whenever it changes, until ctx
// ends; nil where there is none. While the API is away the last stays.
func Watch(ctx context.Context, client kubernetes.Interface, log *slog.Logger, to func(data map[string]string)) {
	agent.WatchOne(ctx, client, client.CoreV1().ConfigMaps(Namespace), Name, log, func(m *corev1.ConfigMap) {
		if m == nil {
			m = &corev1.ConfigMap{}
		}
		to(m.Data)
	})
}

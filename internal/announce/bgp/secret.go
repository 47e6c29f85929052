package bgp

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/core/metallb"
)

// Passwords reads them from Secrets, for Options.Password.
func Passwords(client kubernetes.Interface) func(context.Context, metallb.SecretReference) (string, error) {
	return func(ctx context.Context, ref metallb.SecretReference) (string, error) {
		secret, err := client.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		if secret.Type != corev1.SecretTypeBasicAuth {
			return "", fmt.Errorf("its type is %s; make it %s", secret.Type, corev1.SecretTypeBasicAuth)
		}
		password, ok := secret.Data[corev1.BasicAuthPasswordKey]
		if !ok || len(password) == 0 {
			return "", fmt.Errorf("it has no %s", corev1.BasicAuthPasswordKey)
		}
		return string(password), nil
	}
}

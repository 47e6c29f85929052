// Package joining keeps what hosts need that are about to become nodes, and takes away
// what they don't need any more.
//
// In: the cluster's settings; Secrets that are bootstrap tokens, listed now and then.
// Out: the ConfigMap kube-system/portico-config with the settings, put right where others
// changed it; the end of tokens whose time is over. That such a token counts no more
// doesn't depend on it: the API server looks at the time itself.
package joining

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/bootstrap"
)

// look is how often it looks: one read of a handful of Secrets and one of a ConfigMap.
const look = time.Minute

// Deps is what Run needs.
type Deps struct {
	Client   kubernetes.Interface
	Log      *slog.Logger
	Clock    clock.WithTicker // nil: the real one
	Settings bootstrap.Settings
}

// Run works until ctx ends.
func Run(ctx context.Context, d Deps) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	ticker := d.Clock.NewTicker(look)
	defer ticker.Stop()
	for {
		if err := errors.Join(d.keepSettings(ctx), d.endTokens(ctx)); err != nil && ctx.Err() == nil {
			d.Log.Warn("What joining hosts need isn't kept; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
	}
}

func (d *Deps) keepSettings(ctx context.Context) error {
	api := d.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	data := d.Settings.Data()
	is, err := api.Get(ctx, bootstrap.SettingsName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: bootstrap.SettingsName}, Data: data}, metav1.CreateOptions{})
	case err == nil && !maps.Equal(is.Data, data):
		is.Data = data
		_, err = api.Update(ctx, is, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("keep ConfigMap %s/%s: %w", metav1.NamespaceSystem, bootstrap.SettingsName, err)
	}
	return nil
}

func (d *Deps) endTokens(ctx context.Context) error {
	api := d.Client.CoreV1().Secrets(metav1.NamespaceSystem)
	list, err := api.List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("type", string(corev1.SecretTypeBootstrapToken)).String()})
	if err != nil {
		return fmt.Errorf("list bootstrap tokens: %w", err)
	}
	for i := range list.Items {
		secret := &list.Items[i]
		token, err := bootstrap.Read(secret)
		if err != nil || !token.Over(d.Clock.Now()) {
			continue // what is no token is somebody else's to mend
		}
		if err := api.Delete(ctx, secret.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(secret.UID))}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete bootstrap token %s: %w", token.ID, err)
		}
		d.Log.Info("A bootstrap token's time is over", "id", token.ID, "end", token.End)
	}
	return nil
}

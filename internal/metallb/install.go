package metallb

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"log/slog"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	core "portico.dev/portico/internal/core/metallb"
)

//go:embed crds
var definitions embed.FS

// managedBy marks definitions as ours, written by which text of it. Without the mark a
// definition is somebody else's.
const (
	managedBy   = "app.kubernetes.io/managed-by"
	portico     = "portico"
	textVersion = "portico.dev/definition"
)

var (
	crds       = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	namespaces = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
)

// Mark is the label by which a definition is ours.
const Mark = managedBy + "=" + portico

// Foreign names the definition of pools where it is there and somebody else's; "": it is
// ours, or isn't there yet.
func Foreign(ctx context.Context, client dynamic.Interface) (string, error) {
	name := Pools.Resource + "." + Pools.Group
	is, err := client.Resource(crds).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read the definition %s: %w", name, err)
	case is.GetLabels()[managedBy] == portico:
		return "", nil
	}
	return name, nil
}

// Install makes the definitions and the namespace metallb-system, and brings definitions
// that an earlier version of ours made up to date.
func Install(ctx context.Context, client dynamic.Interface, log *slog.Logger) error {
	namespace := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": core.Namespace},
	}}
	if _, err := client.Resource(namespaces).Create(ctx, namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", core.Namespace, err)
	}
	wanted, err := readDefinitions()
	if err != nil {
		return err
	}
	for _, definition := range wanted {
		if err := install(ctx, client.Resource(crds), definition, log); err != nil {
			return fmt.Errorf("define %s: %w", definition.GetName(), err)
		}
	}
	return nil
}

// readDefinitions gives what is embedded, marked.
func readDefinitions() ([]*unstructured.Unstructured, error) {
	files, err := definitions.ReadDir("crds")
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	for _, file := range files {
		text, err := definitions.ReadFile("crds/" + file.Name())
		if err != nil {
			return nil, err
		}
		definition := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(text, &definition.Object); err != nil {
			return nil, fmt.Errorf("read definition %s: %w", file.Name(), err)
		}
		sum := sha256.Sum256(text)
		definition.SetLabels(map[string]string{managedBy: portico})
		definition.SetAnnotations(map[string]string{textVersion: hex.EncodeToString(sum[:8])})
		out = append(out, definition)
	}
	return out, nil
}

func install(ctx context.Context, client dynamic.ResourceInterface, definition *unstructured.Unstructured, log *slog.Logger) error {
	is, err := client.Get(ctx, definition.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, definition, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // another process was first
		}
		return err
	}
	if err != nil {
		return err
	}
	if is.GetLabels()[managedBy] != portico {
		log.Info("A definition of somebody else's is used as it is", "definition", definition.GetName())
		return nil
	}
	if is.GetAnnotations()[textVersion] == definition.GetAnnotations()[textVersion] {
		return nil
	}
	definition.SetResourceVersion(is.GetResourceVersion())
	_, err = client.Update(ctx, definition, metav1.UpdateOptions{})
	return err
}

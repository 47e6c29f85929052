package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/machine"
	"portico.dev/portico/internal/core/records"
	"portico.dev/portico/internal/kubevirt"
)

func newEnv() *cobra.Command {
	c := &client{}
	var vm string
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Show the environment variables that describe a namespace's Services",
		Long: `Show what a process or a guest that starts now in a namespace is told of its Services, a
line NAME=value each. A guest has what there was when it started, in the file
/sys/firmware/qemu_fw_cfg/by_name/opt/dev.portico/environment/raw.

With --vm it is for that machine, whose template may want none of them (the annotation
` + machine.ServiceLinksAnnotation + `).`,
		Example: `  portico env --namespace example-namespace
  portico env -n example-namespace --vm example-vm
  set -a; eval "$(portico env -n example-namespace)"; set +a      # for this shell's processes`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out, err := c.environment(cmd.Context(), vm)
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), out)
			return err
		},
	}
	c.flags(cmd)
	cmd.Flags().StringVar(&vm, "vm", "", "`name` of a VirtualMachine of the namespace")
	return cmd
}

func (c *client) environment(ctx context.Context, vm string) (string, error) {
	config, err := c.load()
	if err != nil {
		return "", err
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", fmt.Errorf("use the kubeconfig: %w", err)
	}
	if err := namespaceIsThere(ctx, kube.CoreV1(), c.namespace); err != nil {
		return "", err
	}
	all := true
	if vm != "" {
		if all, err = serviceLinks(ctx, config, c.namespace, vm); err != nil {
			return "", err
		}
	}
	services, err := describedServices(ctx, kube.CoreV1(), c.namespace)
	if err != nil {
		return "", fmt.Errorf("read the Services of namespace %s: %w", c.namespace, err)
	}
	return records.Shell(records.Environment(c.namespace, services, all)), nil
}

// namespaceIsThere finds the names that are mistyped, whose lists are empty like those of
// namespaces without objects. Who may not see namespaces isn't told.
func namespaceIsThere(ctx context.Context, core corev1client.NamespacesGetter, name string) error {
	_, err := core.Namespaces().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("there is no namespace %q; `portico kubectl get namespaces` lists them", name)
	case err != nil && !apierrors.IsForbidden(err):
		return fmt.Errorf("read the namespace %s: %w", name, err)
	}
	return nil
}

func serviceLinks(ctx context.Context, config *rest.Config, namespace, name string) (bool, error) {
	machines, err := kubevirt.NewForConfig(config, nil)
	if err != nil {
		return false, fmt.Errorf("use the kubeconfig: %w", err)
	}
	vm, err := machines.VirtualMachines(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return false, fmt.Errorf("read the VirtualMachine %s/%s: %w", namespace, name, err)
	}
	if vm.Spec.Template == nil {
		return true, nil
	}
	return machine.ServiceLinks(&vm.Spec.Template.ObjectMeta)
}

// describedServices are those whose variables something in the namespace may be given:
// the namespace's own, and the API's.
func describedServices(ctx context.Context, core corev1client.ServicesGetter, namespace string) ([]*catalog.Service, error) {
	list, err := core.Services(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []*catalog.Service
	for i := range list.Items {
		out = append(out, catalog.FromService(&list.Items[i]))
	}
	if namespace == metav1.NamespaceDefault {
		return out, nil
	}
	api, err := core.Services(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	switch {
	case err == nil:
		out = append(out, catalog.FromService(api))
	case !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err):
		return nil, err
	}
	return out, nil
}

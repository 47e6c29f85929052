package kubevirt

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/gentype"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Scheme knows the kubevirt.io/v1 types beside all of client-go's. It is made when it is
// first asked for: many starts of the program need none.
var Scheme = sync.OnceValue(func() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(s))
	utilruntime.Must(kubevirtv1.AddToScheme(s))
	return s
})

// Interface is what reads and writes machines: a Client, or a fake of one.
type Interface interface {
	// VirtualMachines is the client of one namespace's VirtualMachines ("" for
	// all, where the verb allows).
	VirtualMachines(namespace string) Machines
	// VirtualMachineInstances is the client of one namespace's instances.
	VirtualMachineInstances(namespace string) Instances
}

// Machines reads and writes VirtualMachines.
type Machines = Resource[*kubevirtv1.VirtualMachine, *kubevirtv1.VirtualMachineList]

// Instances reads and writes VirtualMachineInstances.
type Instances = Resource[*kubevirtv1.VirtualMachineInstance, *kubevirtv1.VirtualMachineInstanceList]

// Resource has the verbs of one namespaced resource with a status.
type Resource[T, L runtime.Object] interface {
	Create(ctx context.Context, obj T, opts metav1.CreateOptions) (T, error)
	Update(ctx context.Context, obj T, opts metav1.UpdateOptions) (T, error)
	UpdateStatus(ctx context.Context, obj T, opts metav1.UpdateOptions) (T, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
	DeleteCollection(ctx context.Context, opts metav1.DeleteOptions, listOpts metav1.ListOptions) error
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
	Patch(ctx context.Context, name string, pt types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string) (T, error)
}

// Client is a client of kubevirt.io/v1.
type Client struct{ rest rest.Interface }

var _ Interface = (*Client)(nil)

// NewForConfig makes a client that speaks JSON (the types have no protobuf form)
// with the server and credentials of config. httpClient may be nil.
func NewForConfig(config *rest.Config, httpClient *http.Client) (*Client, error) {
	c := rest.CopyConfig(config)
	gv := kubevirtv1.GroupVersion
	c.GroupVersion = &gv
	c.APIPath = "/apis"
	c.ContentType = runtime.ContentTypeJSON
	c.AcceptContentTypes = ""
	c.NegotiatedSerializer = serializer.NewCodecFactory(Scheme()).WithoutConversion()
	var r *rest.RESTClient
	var err error
	if httpClient != nil {
		r, err = rest.RESTClientForConfigAndClient(c, httpClient)
	} else {
		r, err = rest.RESTClientFor(c)
	}
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", gv, err)
	}
	return &Client{rest: r}, nil
}

// VirtualMachines implements Interface.
func (c *Client) VirtualMachines(namespace string) Machines {
	return gentype.NewClientWithList(
		"virtualmachines", c.rest, runtime.NewParameterCodec(Scheme()), namespace,
		func() *kubevirtv1.VirtualMachine { return &kubevirtv1.VirtualMachine{} },
		func() *kubevirtv1.VirtualMachineList { return &kubevirtv1.VirtualMachineList{} })
}

// VirtualMachineInstances implements Interface.
func (c *Client) VirtualMachineInstances(namespace string) Instances {
	return gentype.NewClientWithList(
		"virtualmachineinstances", c.rest, runtime.NewParameterCodec(Scheme()), namespace,
		func() *kubevirtv1.VirtualMachineInstance { return &kubevirtv1.VirtualMachineInstance{} },
		func() *kubevirtv1.VirtualMachineInstanceList { return &kubevirtv1.VirtualMachineInstanceList{} })
}

package certificates

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/work"
)

const (
	// Old requests are deleted after upstream's times, since they came or were answered.
	keepAnswered = time.Hour
	keepPending  = 24 * time.Hour
	// keepLeft is for answered ones whose node has left, or hasn't come: its host has long
	// read the certificate, or never will.
	keepLeft = time.Minute
	// askAgain is how soon a request is looked at again whose Node shows too little: it
	// reports its addresses about when it asks.
	askAgain = time.Second
)

// Signer is the cluster's authority.
type Signer interface {
	SignRequest(request *x509.CertificateRequest, purpose x509.ExtKeyUsage, life time.Duration) ([]byte, error)
}

// Deps is what Run needs.
type Deps struct {
	Client kubernetes.Interface
	Caches *caches.Shared // of the term; nil: its own
	Signer Signer
	Log    *slog.Logger
	Clock  clock.WithTicker // nil: the real one
	// Reserved are names by which clients know the API server: no node may have one.
	Reserved []string
	// Domain is the cluster's: names in it are those of Services and pods.
	Domain string
	// Ranges are those of cluster IPs, pods and guests: no node has an address there, nor in
	// a ServiceCIDR.
	Ranges []netip.Prefix
}

// controller is one term of the controller.
type controller struct {
	Deps
	queue    *work.Queue[string]
	requests certificateslisters.CertificateSigningRequestLister
	nodes    corelisters.NodeLister
}

// Run answers requests until ctx ends. An error means that it could not begin.
func Run(ctx context.Context, d Deps) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	informer, nodes := view.Certificates().V1().CertificateSigningRequests(), view.Core().V1().Nodes()
	c := &controller{Deps: d, queue: work.New[string]("certificates", d.Log, d.Clock), requests: informer.Lister(), nodes: nodes.Lister()}
	seen := func(obj any) {
		if csr, ok := obj.(*certificatesv1.CertificateSigningRequest); ok {
			if _, ours := forms[csr.Spec.SignerName]; ours {
				c.queue.Add(csr.Name)
			}
		}
	}
	view.On(informer.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: seen, UpdateFunc: func(_, obj any) { seen(obj) }})
	view.On(nodes.Informer(), cache.ResourceEventHandlerFuncs{DeleteFunc: c.left})
	if ok, err := view.Ready(); !ok {
		return err
	}
	c.queue.Run(ctx, 1, c.sync) // one worker: two hosts never get one name
	return nil
}

// left has the requests of a node that is gone looked at.
func (c *controller) left(obj any) {
	gone, err := cache.DeletionHandlingObjectToName(obj)
	if err != nil {
		return
	}
	all, _ := c.requests.List(labels.Everything()) // listing a cache can't fail
	for _, csr := range all {
		if f, err := read(csr); err == nil && f.node == gone.Name {
			c.queue.Add(csr.Name)
		}
	}
}

// sync brings one request a step further; what it writes wakes it again.
func (c *controller) sync(ctx context.Context, name string) error {
	cached, err := c.requests.Get(name)
	if err != nil {
		return nil //nolint:nilerr // it is gone
	}
	if old := c.age(cached); old <= 0 {
		return c.forget(ctx, cached)
	} else if len(cached.Status.Certificate) > 0 || refused(cached) {
		c.queue.AddAfter(name, old)
		return nil
	}
	// As it is stored: an answer that the cache hasn't seen isn't to be given twice.
	csr, err := c.Client.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read certificate signing request %s: %w", name, err)
	}
	switch {
	case len(csr.Status.Certificate) > 0 || refused(csr):
		return nil
	case !approvedAt(csr).IsZero():
		return c.sign(ctx, csr)
	}
	return c.decide(ctx, csr)
}

// age is the time until a request is forgotten. That of an answered one counts from the
// answer: its host must have the time to read it, also when the clock has jumped since it
// asked.
func (c *controller) age(csr *certificatesv1.CertificateSigningRequest) time.Duration {
	since, keep := csr.CreationTimestamp.Time, keepPending
	issued := len(csr.Status.Certificate) > 0
	if issued || refused(csr) {
		since, keep = answeredAt(csr), keepAnswered
	}
	if issued && !c.isHere(csr) {
		keep = keepLeft
	}
	return since.Add(keep).Sub(c.Clock.Now())
}

// answeredAt is when the last word was spoken.
func answeredAt(csr *certificatesv1.CertificateSigningRequest) time.Time {
	last := csr.CreationTimestamp.Time
	for _, condition := range csr.Status.Conditions {
		if !condition.LastUpdateTime.IsZero() {
			last = condition.LastUpdateTime.Time
		}
	}
	return last
}

// isHere tells whether there is the Node that a request is for.
func (c *controller) isHere(csr *certificatesv1.CertificateSigningRequest) bool {
	f, err := read(csr)
	if err != nil {
		return false
	}
	_, err = c.nodes.Get(f.node)
	return err == nil
}

func (c *controller) forget(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	err := c.Client.CertificatesV1().CertificateSigningRequests().Delete(ctx, csr.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(csr.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the old certificate signing request %s: %w", csr.Name, err)
	}
	return nil
}

func refused(csr *certificatesv1.CertificateSigningRequest) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed
	})
}

// decide approves or denies, or leaves a request to a person.
func (c *controller) decide(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	f, err := read(csr)
	if err != nil {
		return c.answer(ctx, csr, certificatesv1.CertificateDenied, "Malformed", err.Error())
	}
	v, err := c.judge(ctx, csr, f)
	switch {
	case err != nil:
		return err
	case v.deny != "":
		return c.answer(ctx, csr, certificatesv1.CertificateDenied, "Refused", v.deny)
	case v.approve:
		return c.answer(ctx, csr, certificatesv1.CertificateApproved, "AutoApproved", "Approved for "+csr.Spec.Username+".")
	case v.later:
		c.queue.AddAfter(csr.Name, askAgain)
		return nil
	}
	c.queue.AddAfter(csr.Name, c.age(csr))
	return nil
}

func (c *controller) answer(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType, reason, message string) error {
	c.condition(csr, kind, reason, message)
	_, err := c.Client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
	if err != nil {
		return c.unlessGone(err, "answer", csr)
	}
	c.Log.Info("A certificate signing request was answered", "name", csr.Name, "of", csr.Spec.Username, "with", kind, "message", message)
	return nil
}

// sign issues the certificate of an approved request; also one that a person approved
// has to be well formed.
func (c *controller) sign(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	f, err := read(csr)
	if err == nil {
		var life time.Duration
		if s := csr.Spec.ExpirationSeconds; s != nil {
			life = time.Duration(*s) * time.Second
		}
		csr.Status.Certificate, err = c.Signer.SignRequest(f.CertificateRequest, f.purpose, life)
	}
	if err != nil {
		c.condition(csr, certificatesv1.CertificateFailed, "Malformed", err.Error())
	}
	if _, err := c.Client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{}); err != nil {
		return c.unlessGone(err, "sign", csr)
	}
	return nil
}

func (c *controller) condition(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType, reason, message string) {
	now := metav1.NewTime(c.Clock.Now())
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now,
	})
}

func (c *controller) unlessGone(err error, verb string, csr *certificatesv1.CertificateSigningRequest) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%s certificate signing request %s: %w", verb, csr.Name, err) // a conflict, too: it is looked at anew
}

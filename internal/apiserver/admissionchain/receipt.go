package admissionchain

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/core/quota"
)

const (
	// backWithin is until when a charge may be given back here. It is well below the time
	// of stillness after which the quota controller takes it for lost (30 s): what both
	// gave back would be too much.
	backWithin = 15 * time.Second
	backTime   = 5 * time.Second
)

// charge is what one attempt of a request to store its object added to quotas.
type charge struct {
	account   *account
	clock     clock.PassiveClock
	at        time.Time // not after the charge
	namespace string
	amounts   map[types.UID]quota.Amounts
}

// receipt collects what a request was charged. A request may try more than once: a
// generated name was taken, or the object changed meanwhile. It is charged at each try.
type receipt struct {
	mu   sync.Mutex
	lost []charge // guarded by mu; of tries that stored nothing
	last *charge  // guarded by mu; of the present one
}

type receiptKey struct{}

// receiptOf is nil for a request that WithRefunds didn't see.
func receiptOf(ctx context.Context) *receipt {
	r, _ := ctx.Value(receiptKey{}).(*receipt)
	return r
}

// again notes that a try begins: the one before it has failed, else there were no other.
func (r *receipt) again() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last != nil {
		r.lost = append(r.lost, *r.last)
		r.last = nil
	}
}

func (r *receipt) note(c charge) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(c.amounts) > 0 {
		r.last = &c
	}
}

// due are the charges for which nothing was stored, by the answer's code.
func (r *receipt) due(code int) []charge {
	r.mu.Lock()
	defer r.mu.Unlock()
	due := r.lost
	if r.last != nil && refused(code) {
		due = append(due, *r.last)
	}
	r.lost, r.last = nil, nil
	return due
}

// refused says whether an answer proves that nothing was stored. Those of 500 and more
// don't: the store may have written without saying so. Nor do other codes: an answer that
// can't be put in the form that was asked for is 400 or 406, after the object was stored.
func refused(code int) bool {
	switch code {
	case http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// charged is what a request that was let pass added to the quotas: to those that were
// there before and after, because a quota that came or went between may not have been
// charged.
func charged(a admission.Attributes, before, after []corev1.ResourceQuota) map[types.UID]quota.Amounts {
	gr := a.GetResource().GroupResource()
	var old any
	if a.GetOperation() == admission.Update {
		old = a.GetOldObject()
		if m, err := meta.Accessor(old); err != nil || m.GetResourceVersion() == "" {
			old = nil // made by an update
		}
		if _, changes := a.GetObject().(*corev1.Service); !changes {
			return nil // of other kinds each is one, whatever it says
		}
	}
	added := quota.Added(gr, a.GetObject(), old)
	var out map[types.UID]quota.Amounts
	for i := range before {
		for j := range after {
			if before[i].UID != after[j].UID || quota.Scoped(&after[j].Spec) {
				continue
			}
			for name, n := range added {
				_, was := before[i].Status.Hard[name]
				if _, is := after[j].Status.Hard[name]; !was || !is {
					continue
				}
				if out == nil {
					out = map[types.UID]quota.Amounts{}
				}
				if out[after[j].UID] == nil {
					out[after[j].UID] = quota.Amounts{}
				}
				out[after[j].UID][name] = n
			}
		}
	}
	return out
}

// WithRefunds gives back at once what requests were charged that stored nothing. Without
// it their places would come back only by the quota controller's count.
func WithRefunds(next http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, ok := request.RequestInfoFrom(req.Context())
		if !ok || !info.IsResourceRequest || info.Namespace == "" || info.Subresource != "" {
			next.ServeHTTP(w, req)
			return
		}
		switch info.Verb {
		case "create", "update", "patch":
		default:
			next.ServeHTTP(w, req)
			return
		}
		r, seen := &receipt{}, &answerCode{ResponseWriter: w}
		ctx := context.WithValue(req.Context(), receiptKey{}, r)
		next.ServeHTTP(responsewriter.WrapForHTTP1Or2(seen), req.WithContext(ctx))
		for _, c := range r.due(seen.code) {
			if err := c.giveBack(req.Context()); err != nil {
				log.Warn("a quota counts more than there is for a while", "err", err)
			}
		}
	})
}

func (c *charge) giveBack(ctx context.Context) error {
	if c.clock.Since(c.at) > backWithin {
		return nil
	}
	// The client may be gone; its place must be free all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), backTime)
	defer cancel()
	return c.account.giveBack(ctx, c.namespace, c.amounts)
}

// answerCode remembers the code of an answer; 0 is that of none.
type answerCode struct {
	http.ResponseWriter
	code int
}

var _ responsewriter.UserProvidedDecorator = (*answerCode)(nil)

// Unwrap implements responsewriter.UserProvidedDecorator.
func (a *answerCode) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (a *answerCode) WriteHeader(code int) {
	if a.code == 0 && code >= http.StatusOK { // those below are preliminary
		a.code = code
	}
	a.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (a *answerCode) Write(b []byte) (int, error) {
	if a.code == 0 {
		a.code = http.StatusOK
	}
	return a.ResponseWriter.Write(b)
}

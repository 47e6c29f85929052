package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ReasonNoSpace is the reason of a refused write in the API's answer.
const ReasonNoSpace metav1.StatusReason = "InsufficientStorage"

// Refusal is an answer of the store in words for a client of the API. Its gRPC code
// says whether the write may have been done all the same: claims ask for that.
type Refusal struct {
	apierrors.StatusError
	code  codes.Code
	cause error
}

// Error is the cause alone where claims say the rest better.
func (r *Refusal) Error() string {
	if r.code == codes.Unavailable {
		return r.cause.Error()
	}
	return r.ErrStatus.Message
}

// GRPCStatus is how status.Code finds the code.
func (r *Refusal) GRPCStatus() *status.Status { return status.New(r.code, r.ErrStatus.Message) }

func (r *Refusal) Unwrap() error { return r.cause }

func refusal(httpCode int32, reason metav1.StatusReason, code codes.Code, cause error, format string, args ...any) *Refusal {
	return &Refusal{
		StatusError: apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: httpCode, Reason: reason, Message: fmt.Sprintf(format, args...),
		}},
		code: code, cause: cause,
	}
}

// noSpace refuses a write before it reached the store.
func noSpace(format string, args ...any) *Refusal {
	return refusal(http.StatusInsufficientStorage, ReasonNoSpace, codes.ResourceExhausted, nil, format, args...)
}

// explain turns what etcd says of a call into an answer for a client of the API,
// where the library would answer 500 with etcd's words alone. ctx is the caller's: a
// call that it gave up needs no answer.
func explain(ctx context.Context, err error, write bool) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	var said rpctypes.EtcdError
	if !errors.As(err, &said) {
		errors.As(rpctypes.Error(err), &said)
	}
	switch {
	case said == rpctypes.ErrNoSpace:
		// etcd checks its quota once more after it has applied a write, and then gives
		// the same answer: so the write may be done.
		return refusal(http.StatusInsufficientStorage, ReasonNoSpace, codes.Unknown, nil,
			"the store has reached its quota; delete what isn't needed, or give etcd a larger --quota-backend-bytes (%v)", err)
	case said == rpctypes.ErrTooManyOps:
		return refusal(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, codes.InvalidArgument, err,
			"the object claims more addresses and ports than the store takes in one transaction; split it, or start etcd with --max-txn-ops %d", maxTxnOps)
	case said.Code() == codes.Unavailable, status.Code(err) == codes.Unavailable, errors.Is(err, context.DeadlineExceeded):
		remedy := "try again later"
		if write {
			remedy = "the write may or may not be done, read the object before you try again"
		}
		return refusal(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, codes.Unavailable, err,
			"the store (etcd) doesn't answer: %v; %s", err, remedy)
	}
	return err
}

package claims

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"portico.dev/portico/internal/core/ipam"
)

// Policy says what the objects of one resource claim. Its functions are pure but
// for the allocators' hints.
type Policy struct {
	// Claims lists what obj holds, nil for an object that was not assigned yet.
	Claims func(obj runtime.Object) []ipam.Claim

	// Assign gives obj, in place, what its type needs and it lacks; old is the
	// object as stored, nil for a new one. It may be called several times for one
	// write. An error is answered to the client as it is.
	// An error that wraps ipam.ErrFull is believed only after Refresh.
	Assign func(obj, old runtime.Object) (Assignment, error)

	// Free tells the allocators that claims are gone: a deleted object's, so that they
	// can be had again before the mirror sees it (ALLOC-04), or one that an assignment
	// required and that the store doesn't have. Optional.
	Free func(...ipam.Claim)

	// Guard may refuse to have old changed into obj, or deleted where obj is nil, by
	// what the store says now. Optional.
	Guard func(ctx context.Context, obj, old runtime.Object) error

	// Refresh makes the hints anew from the store and reports whether it did.
	// Optional.
	Refresh func(context.Context) (bool, error)
}

// Assignment is what one Assign chose, until the write is known to have succeeded or
// failed. While that isn't known, neither Commit nor Release is called.
type Assignment interface {
	// Conflict says that another object holds the claim of this key. It returns nil
	// when the claim was the allocator's own choice, which then won't be made
	// again; otherwise the error for the client.
	Conflict(key string) error
	// Requires gives the keys of others' claims that must live for the write to be
	// granted: a ServiceCIDR's on the range that an address is of.
	Requires() []string
	Commit()
	Release()
}

// maxTries bounds how often one write picks anew. Each refusal teaches the hints
// one taken claim, so more than a few means that the hints are far behind.
const maxTries = 64

// Store is a storage.Interface whose writes carry their claims. It lies below the
// watch cache.
type Store struct {
	storage.Interface
	policy Policy
}

// Create assigns and writes obj with its claims.
func (s *Store) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	return s.try(ctx, func(ctx context.Context, begin beginFunc) error {
		fresh := obj.DeepCopyObject()
		if err := begin(fresh, nil); err != nil {
			return err
		}
		return s.Interface.Create(ctx, key, fresh, out, ttl)
	})
}

// GuaranteedUpdate is storage.Interface's; the object that tryUpdate returns is
// assigned what it lacks, and the difference of claims joins the transaction.
func (s *Store) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, cached runtime.Object,
) error {
	return s.try(ctx, func(ctx context.Context, begin beginFunc) error {
		from := cached
		cached = nil // it may be why the write failed, and tryUpdate may have changed it
		return s.Interface.GuaranteedUpdate(ctx, key, out, ignoreNotFound, preconditions,
			func(old runtime.Object, meta storage.ResponseMeta) (runtime.Object, *uint64, error) {
				before := old.DeepCopyObject() // tryUpdate may change its argument
				obj, ttl, err := tryUpdate(old, meta)
				if err != nil {
					return nil, nil, err
				}
				fresh := obj.DeepCopyObject()
				if meta.ResourceVersion == 0 {
					before = nil // server-side apply creates by an update from nothing
				} else if err := s.guard(ctx, fresh, before); err != nil {
					return nil, nil, err
				}
				return fresh, ttl, begin(fresh, before)
			}, from)
	})
}

// Delete removes the object with its claims.
func (s *Store) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, cached runtime.Object, opts storage.DeleteOptions,
) error {
	ctx, in := withIntent(ctx)
	err := s.Interface.Delete(ctx, key, out, preconditions, func(ctx context.Context, obj runtime.Object) error {
		*in = intent{owner: ownerOf(obj), remove: s.policy.Claims(obj)}
		if err := s.guard(ctx, nil, obj); err != nil {
			return err
		}
		return validate(ctx, obj)
	}, cached, opts)
	if err == nil && s.policy.Free != nil {
		s.policy.Free(in.remove...)
	}
	return err
}

func (s *Store) guard(ctx context.Context, obj, old runtime.Object) error {
	if s.policy.Guard == nil {
		return nil
	}
	return s.policy.Guard(ctx, obj, old)
}

// beginFunc assigns obj and records in the attempt's intent what changes.
type beginFunc func(obj, old runtime.Object) error

// try runs write until its claims are granted or the client chose a taken one.
func (s *Store) try(ctx context.Context, write func(context.Context, beginFunc) error) error {
	var err error
	refreshed := false
	for range maxTries {
		var a attempt
		attemptCtx, in := withIntent(ctx)
		err = write(attemptCtx, func(obj, old runtime.Object) error { return a.begin(s, in, obj, old) })
		if errors.Is(err, ipam.ErrFull) && !refreshed {
			refreshed = true
			if s.refresh(ctx) {
				continue
			}
		}
		again, settled := a.end(s, in, err)
		if !again {
			return settled
		}
	}
	return apierrors.NewInternalError(fmt.Errorf("no free address or port was found in %d tries: %w", maxTries, err))
}

// refresh reports whether the hints are new. That they can't be read is no reason to
// answer otherwise than that nothing is free.
func (s *Store) refresh(ctx context.Context) bool {
	if s.policy.Refresh == nil {
		return false
	}
	done, err := s.policy.Refresh(ctx)
	return done && err == nil
}

// attempt is one call of the store below, which may assign several times.
type attempt struct{ assigned Assignment }

func (a *attempt) begin(s *Store, in *intent, obj, old runtime.Object) error {
	if a.assigned != nil {
		a.assigned.Release() // the store tries again with a newer object
		a.assigned = nil
	}
	assigned, err := s.policy.Assign(obj, old)
	if err != nil {
		return err
	}
	a.assigned = assigned
	*in = s.difference(obj, old)
	in.require = assigned.Requires()
	return nil
}

// end settles what was assigned, by the way the write went, and reports whether
// another attempt is worth while.
func (a *attempt) end(s *Store, in *intent, err error) (again bool, _ error) {
	var taken *takenError
	var gone *goneError
	switch {
	case a.assigned == nil:
	case err == nil:
		a.assigned.Commit()
	case in.unknown: // the write may yet be done: the mirror will show
	case errors.As(err, &taken):
		conflict := a.assigned.Conflict(taken.claim.Key)
		a.assigned.Release()
		return conflict == nil, conflict
	case errors.As(err, &gone):
		a.assigned.Release()
		if s.policy.Free != nil {
			s.policy.Free(ipam.Claim{Key: gone.key}) // the next try does without
		}
		return true, err
	default:
		a.assigned.Release()
	}
	return false, err
}

// difference is what a write of obj over old adds and removes.
func (s *Store) difference(obj, old runtime.Object) intent {
	in := intent{owner: ownerOf(obj)}
	var before []ipam.Claim
	if old != nil {
		before = s.policy.Claims(old)
	}
	after := s.policy.Claims(obj)
	in.add = without(after, before)
	in.remove = without(before, after)
	return in
}

// without is a minus b, each key once: etcd refuses a transaction that names a key
// twice.
func without(a, b []ipam.Claim) []ipam.Claim {
	var out []ipam.Claim
	seen := make(map[string]bool, len(a)+len(b))
	for _, c := range b {
		seen[c.Key] = true
	}
	for _, c := range a {
		if !seen[c.Key] {
			seen[c.Key] = true
			out = append(out, c)
		}
	}
	return out
}

func ownerOf(obj runtime.Object) string {
	m, err := meta.Accessor(obj)
	if err != nil {
		return "" // every stored type has metadata; the scheme's tests see to it
	}
	return string(m.GetUID())
}

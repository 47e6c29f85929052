package pools

import "fmt"

// Reason is a word for programs.
type Reason string

// Why a Service has no address.
const (
	NoPools    Reason = "NoPools"            // there are none
	BadRequest Reason = "BadRequest"         // what it asks for can't be read, or contradicts itself
	NoFamily   Reason = "NoFamily"           // no pool that it may have has its families
	NoPool     Reason = "PoolNotFound"       // it asks for a pool that isn't there
	NotInPool  Reason = "AddressNotInPool"   // it asks for an address that no pool has
	NotAllowed Reason = "PoolNotAllowed"     // the pool is for other Services
	InUse      Reason = "AddressInUse"       // by a Service that it doesn't share with
	Exhausted  Reason = "AddressesExhausted" // all are given away
)

// Refusal says why a Service gets no address, and what to do.
type Refusal struct {
	Reason  Reason
	Message string
}

func (r *Refusal) Error() string { return r.Message }

func refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{reason, fmt.Sprintf(format, args...)}
}

package routing

// Reason says why a verdict isn't simply the cluster set, or why an endpoint gets
// no new connections. The zero value says nothing.
type Reason uint8

// Of verdicts.
const (
	NoneReady Reason = iota + 1
	NoneNear
	InternalPolicy
	InternalElsewhere
	ExternalPolicy
	ExternalElsewhere

	// Of endpoints that are left out.

	NotReady
	NotServing
	Terminating
	OtherNode
	OtherZone
	OtherTopology
	Duplicate
	BadAddress
	WrongFamily
	TooMany
)

var reasons = [...]string{
	NoneReady:         "no endpoint is ready",
	NoneNear:          "no endpoint fits the topology keys",
	InternalPolicy:    "internalTrafficPolicy is Local",
	InternalElsewhere: "internalTrafficPolicy is Local and usable endpoints are on other nodes only",
	ExternalPolicy:    "externalTrafficPolicy is Local",
	ExternalElsewhere: "externalTrafficPolicy is Local and usable endpoints are on other nodes only",
	NotReady:          "not ready",
	NotServing:        "terminating and no longer serving",
	Terminating:       "terminating, and ready ones exist",
	OtherNode:         "its hints keep it for other nodes",
	OtherZone:         "its hints keep it for other zones",
	OtherTopology:     "the topology keys prefer others, or don't allow it",
	Duplicate:         "listed more than once, counts once",
	BadAddress:        "its address can't be used",
	WrongFamily:       "its address is of the other family than its slice",
	TooMany:           "too many endpoints",
}

// String is the reason in words.
func (r Reason) String() string { return reasons[r] }

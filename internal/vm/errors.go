package vm

import "errors"

// Reasons for which a guest isn't started or has ended: CamelCase words for
// conditions, events and container states.
const (
	ReasonNoQEMU       = "QEMUMissing"
	ReasonNoImage      = "ImageMissing"
	ReasonBadDisk      = "BadDisk"
	ReasonDamaged      = "GuestDamaged"
	ReasonNoLink       = "NetworkFailed"
	ReasonQEMUFailed   = "QEMUFailed"
	ReasonHostRebooted = "HostRebooted"
	ReasonPoweredOff   = "PoweredOff"
	ReasonGuestFailed  = "GuestFailed"
	ReasonStopped      = "Stopped"
	ReasonKilled       = "GracePeriodOver"
)

var (
	// ErrExists says that there is a guest with this id already.
	ErrExists = errors.New("the guest exists already")
	// ErrNotRunning says that the guest has ended or is gone.
	ErrNotRunning = errors.New("the guest isn't running")
	// ErrUnlisted says that the guests' folder can't be listed: for all that is known, any
	// of them may run.
	ErrUnlisted = errors.New("which guests run can't be told")
)

// reasonError gives an error one of the reasons above.
type reasonError struct {
	reason string
	error
}

func (e *reasonError) Unwrap() error { return e.error }

func because(reason string, err error) error {
	if err == nil {
		return nil
	}
	return &reasonError{reason, err}
}

// Reason gives the reason word of an error of Start.
func Reason(err error) string {
	var r *reasonError
	if errors.As(err, &r) {
		return r.reason
	}
	return "StartFailed"
}

// Package await is what scripts wait with: things that controllers and daemons do in
// their own time are asked for until they are so.
package await

import (
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

const (
	// patience is how long a state may take on a busy machine with the race detector.
	patience = 30 * time.Second
	// pause keeps the asking from taking the processor from what is asked for.
	pause = 50 * time.Millisecond
)

// Eventually is the scripts' command of that name: it runs a program until that
// succeeds, or, with !, until it fails. The last run's output stays, for stdout and
// stderr.
func Eventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: [!] eventually COMMAND [ARGUMENT...]")
	}
	deadline := time.Now().Add(patience)
	for {
		err := ts.Exec(args[0], args[1:]...)
		if (err == nil) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not after %v: %v", patience, err)
		}
		time.Sleep(pause)
	}
}

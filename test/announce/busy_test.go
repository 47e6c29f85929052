package announce

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// LB-03: with every processor busy nobody is taken for lost, for ten minutes.
func TestBusy(t *testing.T) {
	long, err := time.ParseDuration(os.Getenv("PORTICO_LONG"))
	switch {
	case os.Getenv("PORTICO_LONG") == "":
		t.Skip("takes ten minutes of all processors; set PORTICO_LONG to run it, or to a time like 30s")
	case err != nil:
		long = 10 * time.Minute
	}
	w := newWorld(t, vip4, vip6)
	w.start(names...)
	s := w.send(vip4)
	holder := s.from(names...)
	for range 2 * runtime.NumCPU() {
		hog := exec.Command("sh", "-c", "while :; do :; done")
		if err := hog.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			hog.Process.Kill() //nolint:errcheck // it lives
			hog.Wait()         //nolint:errcheck // it was killed
		}()
	}
	begin := time.Now()
	time.Sleep(long)
	s.end()
	if n := strings.Count(w.said.String(), "counts as lost"); n > 0 {
		t.Errorf("%d times a living node was taken for lost:\n%s", n, w.said.String())
	}
	if away := strings.Count(w.said.String(), "was not running"); away > 0 {
		t.Logf("%d times an agent took itself for away", away)
	}
	t.Logf("%v with all processors busy: %s keeps the address; %d of %d requests lost, at most %v without an answer", long, holder, s.lost(), s.sent, s.gap(begin).Round(time.Millisecond))
}

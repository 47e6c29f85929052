package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/klog/v2"
)

// TestKlog runs in a process of its own: klog's target is a global without a lock, and
// the API servers of other tests leave goroutines behind that log and flush.
func TestKlog(t *testing.T) {
	const alone = "PORTICO_TEST_KLOG"
	if os.Getenv(alone) == "" {
		self := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKlog$")
		self.Env = append(os.Environ(), alone+"=1")
		if said, err := self.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, said)
		}
		return
	}
	var out bytes.Buffer
	routeKlog(slog.New(slog.NewTextHandler(&out, nil)))
	for _, tc := range []struct {
		name string
		log  func()
		want string // in the one line, "" for none
	}{
		{"info", func() { klog.Info("started") }, ""},
		{"structured info", func() { klog.InfoS("started", "a", 1) }, ""},
		{"verbose", func() { klog.V(0).Info("started") }, ""},
		{"warning", func() { klog.Warningf("slow: %d s] more", 3) }, `level=WARN msg="slow: 3 s] more" part=kubernetes`},
		{"error", func() { klog.Errorf("lost\n") }, "level=ERROR msg=lost part=kubernetes"},
		{"structured error", func() { klog.ErrorS(errors.New("gone"), "lost", "what", "it") }, `level=ERROR msg=lost part=kubernetes err=gone what=it`},
		{"expected", func() { klog.Warning("Skipping API apiextensions.k8s.io/v1beta1 because it has no resources.") }, ""},
		{"unread", func() { klog.ErrorS(context.Canceled, "Failed to encode watch event") }, ""},
		{"client has left", func() {
			utilruntime.HandleError(fmt.Errorf("apiserver received an error that is not an metav1.Status: %#+v: %v", context.Canceled, context.Canceled))
		}, ""},
		{"time is over", func() {
			utilruntime.HandleError(fmt.Errorf("apiserver was unable to write a application/json response: %w", http.ErrHandlerTimeout))
		}, ""},
		{"its time is over", func() {
			utilruntime.HandleError(fmt.Errorf("apiserver received an error that is not an metav1.Status: %#+v: %v", context.DeadlineExceeded, context.DeadlineExceeded))
		}, ""},
		{"after the time", func() {
			utilruntime.HandleErrorWithContext(context.Background(), nil, "Post-timeout activity", "result", nil)
		}, ""},
		{"unhandled", func() { utilruntime.HandleError(errors.New("bad")) }, `level=ERROR msg="Unhandled Error" part=kubernetes`},
		{"not encoded", func() { klog.ErrorS(errors.New("bad"), "Failed to encode watch event") }, "level=ERROR"},
		{"contextual", func() { klog.Background().Info("started") }, ""},
		{"with values", func() { klog.Background().WithName("x").WithValues("k", "v").Error(nil, "lost") }, "level=ERROR msg=lost part=kubernetes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out.Reset()
			tc.log()
			switch got := out.String(); {
			case tc.want == "" && got != "":
				t.Errorf("got %s", got)
			case !strings.Contains(got, tc.want) || tc.want != "" && strings.Count(got, "\n") != 1:
				t.Errorf("got %q, want one line with %q", got, tc.want)
			}
		})
	}
}

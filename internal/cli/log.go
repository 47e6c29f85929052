package cli

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// newLogger makes the program's log, on standard error, and leads there what the
// Kubernetes libraries have to say from warnings on; their infos are about their
// own insides.
func newLogger() *slog.Logger {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	routeKlog(log)
	return log
}

// routeKlog makes log the target of klog, which is the libraries' own logger and a
// global. Klog hands its older, unstructured messages to a logr.Logger as errors or
// infos only, so warnings would be lost: those come as klog writes them.
func routeKlog(log *slog.Logger) {
	part := log.With("part", "kubernetes")
	structured := logr.FromSlogHandler(atLeast{slog.LevelWarn, part.Handler()})
	klog.SetLoggerWithOptions(structured, klog.ContextualLogger(true), klog.WriteKlogBuffer(func(line []byte) {
		level, text := parseKlog(line)
		if level < slog.LevelWarn || expected(text) {
			return
		}
		part.Log(context.Background(), level, text)
	}))
}

// parseKlog reads a line as klog writes it: "W1121 10:16:24.028514   13173
// server.go:798] text", the severity's letter first.
func parseKlog(line []byte) (slog.Level, string) {
	level := slog.LevelInfo
	if len(line) > 0 {
		switch line[0] {
		case 'W':
			level = slog.LevelWarn
		case 'E', 'F':
			level = slog.LevelError
		}
	}
	if _, text, ok := bytes.Cut(line, []byte("] ")); ok {
		line = text
	}
	return level, strings.TrimSpace(string(line))
}

// expected tells warnings that every start gives and that mean nothing here: the
// library for CRDs knows a version that its own server no longer serves.
func expected(text string) bool {
	return strings.HasPrefix(text, "Skipping API apiextensions.k8s.io/v1beta1 ")
}

// unheard tells of answers that nobody waits for any longer: the client has left, as those
// of this process all do when it stops, or its time is over and it was told so. The
// library calls each an error of the server.
func unheard(r slog.Record) bool {
	switch r.Message {
	case "Post-timeout activity":
		return true
	case "Unhandled Error", "Failed to encode watch event":
	default:
		return false
	}
	gone := false
	r.Attrs(func(a slog.Attr) bool {
		err, ok := a.Value.Any().(error)
		gone = ok && leftAlone(err)
		return !gone
	})
	return gone
}

// leftAlone goes by the text too, since the library doesn't wrap what it got.
func leftAlone(err error) bool {
	text := err.Error()
	for _, cause := range []error{context.Canceled, http.ErrHandlerTimeout} {
		if errors.Is(err, cause) || strings.HasSuffix(text, ": "+cause.Error()) {
			return true
		}
	}
	return strings.HasPrefix(text, "FinishRequest: post-timeout activity") ||
		strings.HasPrefix(text, "apiserver received an error") && strings.HasSuffix(text, ": "+context.DeadlineExceeded.Error())
}

// atLeast drops records below a level, and those that say nothing.
type atLeast struct {
	level slog.Level
	slog.Handler
}

func (h atLeast) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.level && h.Handler.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h atLeast) Handle(ctx context.Context, r slog.Record) error {
	if unheard(r) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeast{h.level, h.Handler.WithAttrs(attrs)}
}

func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.level, h.Handler.WithGroup(name)}
}

// newTerseLogger is for commands whose answer is their standard output: it tells
// what went wrong, without times.
func newTerseLogger() *slog.Logger {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{
		Level: slog.LevelWarn,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{}
			}
			return a
		},
	}))
	routeKlog(log)
	return log
}

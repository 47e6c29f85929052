package bgp

import (
	"context"
	"log/slog"
	"strings"

	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// What gobgp (v4.8) says in its log and nowhere else.
const (
	failedToConnect      = "failed to connect"
	sentNotification     = "sent notification"
	receivedNotification = "received notification"
)

// listener is gobgp's log. It hears why sessions can't be opened, and passes all on for
// those who debug: the lines that people need are the Speaker's own.
type listener struct {
	next  slog.Handler
	peer  string // of a logger that belongs to one
	heard func(peer, message, problem string)
}

// Enabled is true: what is listened to is at the debug level.
func (l *listener) Enabled(context.Context, slog.Level) bool { return true }

// Handle hears, and passes on at the debug level.
func (l *listener) Handle(ctx context.Context, r slog.Record) error {
	switch r.Message {
	case failedToConnect, sentNotification, receivedNotification:
		if text, code := problem(r); r.Message != sentNotification || code != bgp.BGP_ERROR_CEASE { // our own goodbye
			l.heard(l.peer, r.Message, text)
		}
	}
	if !l.next.Enabled(ctx, slog.LevelDebug) && r.Level < slog.LevelError {
		return nil
	}
	r.Level = min(r.Level, slog.LevelDebug)
	r.Message = "gobgp: " + r.Message
	return l.next.Handle(ctx, r)
}

// WithAttrs notices the peer.
func (l *listener) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *l
	for _, a := range attrs {
		if a.Key == "Key" {
			c.peer = a.Value.String()
		}
	}
	c.next = l.next.WithAttrs(attrs)
	return &c
}

// WithGroup passes it on.
func (l *listener) WithGroup(name string) slog.Handler {
	c := *l
	c.next = l.next.WithGroup(name)
	return &c
}

// problem reads what a record is about, and the code of a notification.
func problem(r slog.Record) (text string, code uint8) {
	var subcode uint8
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "Error":
			text = a.Value.String()
		case "Code":
			code = uint8(a.Value.Int64())
		case "Subcode":
			subcode = uint8(a.Value.Int64())
		}
		return true
	})
	if text == "" {
		text = bgp.NewNotificationErrorCode(code, subcode).String()
	}
	return text, code
}

func isTimeout(problem string) bool { return strings.Contains(problem, "timeout") }

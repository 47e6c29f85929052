package etcd

import (
	"context"
	"log/slog"

	"go.uber.org/zap/zapcore"
)

// harmless are complaints about what an embedded member is by design: it has no
// listeners, and a new store has no schema to detect until its first write.
var harmless = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true,
	"simple token is not cryptographically signed":                                         true,
	"Failed to detect schema version":                                                      true,
	"failed to update storage version":                                                     true,
}

// slogCore sends etcd's warnings and errors to a slog.Logger. Its info lines are
// many and tell an administrator of Portico nothing.
type slogCore struct{ logger *slog.Logger }

func (slogCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	return slogCore{c.logger.With(attributes(fields)...)}
}

func (c slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !harmless[e.Message] {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	c.logger.Log(context.Background(), level, e.Message, attributes(fields)...)
	if e.Level == zapcore.FatalLevel { // after which zap ends the process
		c.logger.Error("The store can't go on and ends this process. What was acknowledged is safe: mend the cause named above, such as a full disk, and start again")
	}
	return nil
}

func (slogCore) Sync() error { return nil }

func attributes(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	out := make([]any, 0, 2*len(enc.Fields))
	for k, v := range enc.Fields {
		out = append(out, k, v)
	}
	return out
}

package qmp

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Event is something that QEMU tells unasked: SHUTDOWN, RESET, STOP, RESUME.
type Event struct {
	Name string
	Data json.RawMessage
	Time time.Time
}

// Error is QEMU's refusal of a command.
type Error struct {
	Command string
	Class   string // "GenericError", "CommandNotFound", ...
	Desc    string
}

func (e *Error) Error() string {
	return fmt.Sprintf("QEMU refused %s: %s (%s)", e.Command, e.Desc, e.Class)
}

// message is any line that QEMU sends: exactly one of greeting, reply, failure
// and event.
type message struct {
	greeting bool
	id       uint64
	reply    json.RawMessage
	failure  *Error
	event    *Event
}

// wire is a line as it stands.
type wire struct {
	QMP    json.RawMessage `json:"QMP"`
	ID     *uint64         `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

var errUnknownMessage = errors.New("neither greeting, reply nor event")

// parse reads one line. A reply without an id answers no command of ours (QEMU
// leaves it out when it could not read the command at all), so it is an error.
func parse(line []byte) (message, error) {
	var w wire
	if err := json.Unmarshal(line, &w); err != nil {
		return message{}, fmt.Errorf("read a QMP message: %w", err)
	}
	switch {
	case w.QMP != nil:
		return message{greeting: true}, nil
	case w.Event != "":
		at := time.Unix(w.Timestamp.Seconds, 0).Add(time.Duration(w.Timestamp.Microseconds) * time.Microsecond)
		return message{event: &Event{Name: w.Event, Data: w.Data, Time: at}}, nil
	case w.Error != nil && w.ID != nil:
		return message{id: *w.ID, failure: &Error{Class: w.Error.Class, Desc: w.Error.Desc}}, nil
	case w.Error != nil:
		return message{}, fmt.Errorf("QEMU could not read a command: %s", w.Error.Desc)
	case w.Return != nil && w.ID != nil:
		return message{id: *w.ID, reply: w.Return}, nil
	}
	return message{}, errUnknownMessage
}

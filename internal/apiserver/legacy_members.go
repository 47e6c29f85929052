package apiserver

import (
	"bytes"
	"encoding/json"
)

// members is a JSON object with its members in order, those too that are there twice:
// a changed body must look to the handler as the client wrote it.
type members []member

type member struct {
	name  string
	value json.RawMessage
}

// parseMembers reads an object; false for any other value.
func parseMembers(raw []byte) (members, bool) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return nil, false
	}
	var list members
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, false
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, false
		}
		list = append(list, member{name.(string), value})
	}
	_, err := d.Token()
	return list, err == nil
}

// get gives a member's value, nil where there is none. Of two the last counts, as for
// every decoder.
func (m members) get(name string) json.RawMessage {
	for i := len(m) - 1; i >= 0; i-- {
		if m[i].name == name {
			return m[i].value
		}
	}
	return nil
}

// set gives the value to the member that get finds, or to a new one.
func (m members) set(name string, value json.RawMessage) members {
	for i := len(m) - 1; i >= 0; i-- {
		if m[i].name == name {
			m[i].value = value
			return m
		}
	}
	return append(m, member{name, value})
}

// without leaves out every member of that name.
func (m members) without(name string) members {
	var out members
	for _, one := range m {
		if one.name != name {
			out = append(out, one)
		}
	}
	return out
}

func (m members) bytes() []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, one := range m {
		if i > 0 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(one.name) // a string always has a form
		b.Write(name)
		b.WriteByte(':')
		b.Write(one.value)
	}
	b.WriteByte('}')
	return b.Bytes()
}

func isNull(value json.RawMessage) bool { return string(value) == "null" }

// orEmpty is the value, or an empty object where it is missing or null.
func orEmpty(value json.RawMessage) json.RawMessage {
	if value == nil || isNull(value) {
		return json.RawMessage("{}")
	}
	return value
}

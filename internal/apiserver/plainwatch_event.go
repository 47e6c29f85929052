package apiserver

import (
	"bytes"
	"fmt"
	"strconv"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// watchEvent is a change, in the forms in which it was wanted so far.
type watchEvent struct {
	kind    watch.EventType
	object  runtime.Object
	scope   watchScope // of the object
	version uint64
	forms   []encodedEvent
}

type encodedEvent struct {
	encoder *eventEncoder
	raw     []byte
	err     error
}

func newWatchEvent(event watch.Event) (*watchEvent, error) {
	accessor, err := meta.Accessor(event.Object)
	if event.Type == watch.Error || err != nil {
		return nil, fmt.Errorf("an event without an object: %s %T", event.Type, event.Object)
	}
	version, err := strconv.ParseUint(accessor.GetResourceVersion(), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("an event without a version: %w", err)
	}
	return &watchEvent{kind: event.Type, object: event.Object, version: version, scope: watchScope{accessor.GetNamespace(), accessor.GetName()}}, nil
}

// scopes are those of the watches that see the event.
func (e *watchEvent) scopes() []watchScope {
	all := []watchScope{{}, {name: e.scope.name}}
	if e.scope.namespace != "" {
		all = append(all, watchScope{namespace: e.scope.namespace}, e.scope)
	}
	return all
}

// form is the event as it is sent.
func (e *watchEvent) form(encoder *eventEncoder) ([]byte, error) {
	for _, f := range e.forms {
		if f.encoder == encoder {
			return f.raw, f.err
		}
	}
	raw, err := encoder.encode(e.kind, e.object)
	e.forms = append(e.forms, encodedEvent{encoder, raw, err})
	return raw, err
}

// eventEncoder writes events in one form.
type eventEncoder struct {
	mediaType     string
	object, event runtime.Encoder
	framer        runtime.Framer
}

func newEventEncoder(serializers runtime.NegotiatedSerializer, accepted runtime.SerializerInfo, gv schema.GroupVersion) *eventEncoder {
	e := &eventEncoder{
		mediaType: accepted.MediaType,
		object:    serializers.EncoderForVersion(accepted.Serializer, gv),
		event:     serializers.EncoderForVersion(accepted.StreamSerializer.Serializer, gv),
		framer:    accepted.StreamSerializer.Framer,
	}
	if e.mediaType != runtime.ContentTypeJSON {
		e.mediaType += ";stream=watch"
	}
	return e
}

func (e *eventEncoder) encode(kind watch.EventType, obj runtime.Object) ([]byte, error) {
	var object, event, framed bytes.Buffer
	if err := e.object.Encode(obj, &object); err != nil {
		return nil, fmt.Errorf("encode a %T: %w", obj, err)
	}
	if err := e.event.Encode(&metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: object.Bytes()}}, &event); err != nil {
		return nil, fmt.Errorf("encode an event of a %T: %w", obj, err)
	}
	_, err := e.framer.NewFrameWriter(&framed).Write(event.Bytes())
	return framed.Bytes(), err
}

package etcd

import (
	"maps"
	"slices"
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// partsKept is how many different parts of each sort are looked at for one that is alike:
// the newest, and as many before them. Objects that are alike come together, when a
// controller or a script makes them; so a few are enough, and bound the memory.
const partsKept = 512

// parts lets decoded objects share the parts of their metadata that many of them have
// alike. Every object of a kind that one client writes has the same managed fields, but
// for the second; they are a third of it. Shared parts must never be changed, so this is
// for objects that nobody may change anyway: those of watch caches.
type parts struct {
	mu       sync.Mutex // guards the following
	key      []byte
	texts    generations[string]
	labels   generations[map[string]string]
	managed  generations[[]metav1.ManagedFieldsEntry]
	fieldSet generations[*metav1.FieldsV1]
}

// generations remember the last values by key: when the young ones are many, the old
// ones are forgotten.
type generations[T any] struct{ young, old map[string]T }

func (g *generations[T]) find(key []byte) (T, bool) {
	if v, ok := g.young[string(key)]; ok {
		return v, true
	}
	v, ok := g.old[string(key)]
	if ok {
		g.keep(string(key), v)
	}
	return v, ok
}

func (g *generations[T]) keep(key string, v T) {
	if len(g.young) >= partsKept || g.young == nil {
		g.old, g.young = g.young, make(map[string]T)
	}
	g.young[key] = v
}

// share replaces parts of the object's metadata by equal ones of earlier objects.
func (p *parts) share(obj runtime.Object) {
	accessor, ok := obj.(metav1.ObjectMetaAccessor)
	if !ok {
		return
	}
	m, ok := accessor.GetObjectMeta().(*metav1.ObjectMeta)
	if !ok || m == nil {
		return // of custom resources, which are maps
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m.Namespace = p.text(m.Namespace)
	m.Labels = p.sameLabels(m.Labels)
	for i := range m.OwnerReferences {
		owner := &m.OwnerReferences[i]
		owner.APIVersion, owner.Kind = p.text(owner.APIVersion), p.text(owner.Kind)
	}
	m.ManagedFields = p.sameManaged(m.ManagedFields)
}

func (p *parts) text(s string) string {
	if s == "" {
		return ""
	}
	p.key = append(p.key[:0], s...)
	if have, ok := p.texts.find(p.key); ok {
		return have
	}
	p.texts.keep(s, s)
	return s
}

func (p *parts) sameLabels(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return labels
	}
	p.key = p.key[:0]
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		p.add(name)
		p.add(labels[name])
	}
	if have, ok := p.labels.find(p.key); ok {
		return have
	}
	p.labels.keep(string(p.key), labels)
	return labels
}

func (p *parts) sameManaged(entries []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	if len(entries) == 0 {
		return entries
	}
	p.key = p.key[:0]
	for i := range entries {
		e := &entries[i]
		p.add(e.Manager)
		p.add(string(e.Operation))
		p.add(e.APIVersion)
		if e.Time != nil {
			p.key = strconv.AppendInt(p.key, e.Time.UnixNano(), 10)
		}
		p.add("") // no time is another thing than one
		p.add(e.FieldsType)
		p.add(e.Subresource)
		p.add(string(e.FieldsV1.GetRawBytes()))
		p.key = append(p.key, b01(e.FieldsV1 != nil))
	}
	if have, ok := p.managed.find(p.key); ok {
		return have
	}
	p.managed.keep(string(p.key), entries)
	for i := range entries {
		e := &entries[i]
		e.Manager, e.APIVersion, e.FieldsType = p.text(e.Manager), p.text(e.APIVersion), p.text(e.FieldsType)
		e.Operation = metav1.ManagedFieldsOperationType(p.text(string(e.Operation)))
		e.FieldsV1 = p.sameFields(e.FieldsV1)
	}
	return entries
}

func (p *parts) sameFields(f *metav1.FieldsV1) *metav1.FieldsV1 {
	raw := f.GetRawBytes()
	if len(raw) == 0 {
		return f
	}
	if have, ok := p.fieldSet.find(raw); ok {
		return have
	}
	p.fieldSet.keep(string(raw), f)
	return f
}

// add appends a text so that no two rows of texts look the same.
func (p *parts) add(s string) {
	p.key = strconv.AppendInt(p.key, int64(len(s)), 10)
	p.key = append(p.key, ':')
	p.key = append(p.key, s...)
}

func b01(b bool) byte {
	if b {
		return '1'
	}
	return '0'
}

// sharingCodec decodes objects that share parts.
type sharingCodec struct {
	runtime.Codec
	parts *parts
}

// Decode implements runtime.Decoder.
func (c sharingCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, kind, err := c.Codec.Decode(data, defaults, into)
	if err == nil {
		c.parts.share(obj)
	}
	return obj, kind, err
}

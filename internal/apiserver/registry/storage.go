package registry

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Kind describes a served resource: its names, its rules and how it is printed.
type Kind[T runtime.Object] struct {
	GroupVersion     schema.GroupVersion
	Plural, Singular string
	Short            []string
	All              bool // part of `kubectl get all`
	Namespaced       bool
	NewObject        func() T
	NewList          func() runtime.Object
	Rules            Rules[T]
	Fields           func(T) fields.Set // what field selectors see besides name and namespace
	Table            Table[T]
	TTL              time.Duration // 0: kept until deleted
}

// Table says what `kubectl get` prints: Name, first, and Age, last, are added here.
type Table[T runtime.Object] struct {
	Columns  []metav1.TableColumnDefinition
	Row      func(T) []any
	AfterAge int  // how many columns, but wide ones, stand behind Age
	NameWide bool // the name stands last, for -o wide only, and there is no age
}

// Column is a column of the default width; wide ones are shown by -o wide.
func Column(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: description}
}

func Wide(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "string", Description: description, Priority: 1}
}

// storage is the REST interface of a kind: the library's store with our names.
type Storage struct {
	*genericregistry.Store
	short      []string
	categories []string
}

func (s *Storage) ShortNames() []string { return s.short }
func (s *Storage) Categories() []string { return s.categories }

// newStorage builds the REST storage of a kind, and that of its status
// subresource, nil where it has none.
func newStorage[T runtime.Object](scheme *runtime.Scheme, options generic.RESTOptionsGetter, k Kind[T]) (*Storage, *StatusStorage, error) {
	s := &strategy[T]{ObjectTyper: scheme, NameGenerator: names.SimpleNameGenerator, gv: k.GroupVersion, namespaced: k.Namespaced, rules: k.Rules}
	var deletes rest.RESTDeleteStrategy = s
	if k.Rules.Graceful != nil {
		deletes = gracefulStrategy[T]{s}
	}
	gr := k.GroupVersion.WithResource(k.Plural).GroupResource()
	store := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return k.NewObject() },
		NewListFunc:               k.NewList,
		DefaultQualifiedResource:  gr,
		SingularQualifiedResource: k.GroupVersion.WithResource(k.Singular).GroupResource(),
		PredicateFunc:             nil,
		CreateStrategy:            s,
		UpdateStrategy:            s,
		DeleteStrategy:            deletes,
		ResetFieldsStrategy:       s,
		TableConvertor:            tableConvertor[T]{k.Table, k.Singular},
	}
	if k.TTL > 0 {
		store.TTLFunc = func(runtime.Object, uint64, bool) (uint64, error) { return uint64(k.TTL.Seconds()), nil }
	}
	attrs := func(obj runtime.Object) (labels.Set, fields.Set, error) {
		m, err := meta.Accessor(obj)
		if err != nil {
			return nil, nil, err
		}
		set := fields.Set{"metadata.name": m.GetName()}
		if k.Namespaced {
			set["metadata.namespace"] = m.GetNamespace()
		}
		if typed, ok := obj.(T); ok && k.Fields != nil {
			for name, value := range k.Fields(typed) {
				set[name] = value
			}
		}
		return m.GetLabels(), set, nil
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: options, AttrFunc: attrs}); err != nil {
		return nil, nil, fmt.Errorf("set up the storage of %s: %w", gr, err)
	}
	main := &Storage{Store: store, short: k.Short}
	if k.All {
		main.categories = []string{"all"}
	}
	if !part(k.NewObject(), "Status").IsValid() {
		return main, nil, nil
	}
	statusStore := *store
	statusStore.UpdateStrategy = statusStrategy[T]{s}
	statusStore.ResetFieldsStrategy = statusStrategy[T]{s}
	return main, &StatusStorage{Store: &statusStore}, nil
}

// gracefulStrategy lets an object live on for its grace period.
type gracefulStrategy[T runtime.Object] struct{ *strategy[T] }

func (g gracefulStrategy[T]) CheckGracefulDelete(_ context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	if options == nil {
		return false
	}
	period := g.rules.Graceful(obj.(T), options.GracePeriodSeconds)
	options.GracePeriodSeconds = &period
	return true
}

// StatusStorage serves get, update and patch of a status.
type StatusStorage struct{ Store *genericregistry.Store }

func (s *StatusStorage) New() runtime.Object { return s.Store.New() }
func (s *StatusStorage) Destroy()            {} // the main storage owns it
func (s *StatusStorage) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return s.Store.Get(ctx, name, options)
}

func (s *StatusStorage) Update(ctx context.Context, name string, objInfo rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc,
	updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	return s.Store.Update(ctx, name, clientsChange{objInfo}, createValidation, updateValidation, false, options)
}

func (s *StatusStorage) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.Store.GetResetFields()
}

func (s *StatusStorage) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return s.Store.ConvertToTable(ctx, obj, options)
}

// tableConvertor prints objects of one kind.
type tableConvertor[T runtime.Object] struct {
	table    Table[T]
	singular string
}

func (c tableConvertor[T]) ConvertToTable(_ context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	out := &metav1.Table{}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		out.ColumnDefinitions = c.columns()
	}
	if m, err := meta.ListAccessor(obj); err == nil {
		out.ResourceVersion, out.Continue, out.RemainingItemCount = m.GetResourceVersion(), m.GetContinue(), m.GetRemainingItemCount()
	} else if m, err := meta.CommonAccessor(obj); err == nil {
		out.ResourceVersion = m.GetResourceVersion()
	}
	add := func(obj runtime.Object) error {
		row, err := c.row(obj)
		if err == nil {
			out.Rows = append(out.Rows, row)
		}
		return err
	}
	if meta.IsListType(obj) {
		return out, meta.EachListItem(obj, add)
	}
	return out, add(obj)
}

// columns keeps wide columns behind Age, as kubectl's users are used to.
func (c tableConvertor[T]) columns() []metav1.TableColumnDefinition {
	name := metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: "Name of the " + c.singular + "."}
	age := metav1.TableColumnDefinition{Name: "Age", Type: "string", Description: "Time since the creation."}
	if c.table.NameWide {
		name.Priority = 1
	}
	return arrange(c, name, age, c.table.Columns)
}

// arrange puts name and age in their places among the rest.
func arrange[T runtime.Object, E any](c tableConvertor[T], name, age E, rest []E) []E {
	if c.table.NameWide {
		return append(slices.Clone(rest), name)
	}
	n := c.normal() - c.table.AfterAge
	return slices.Concat([]E{name}, rest[:n], []E{age}, rest[n:])
}

// normal counts the columns that are not wide; they come first.
func (c tableConvertor[T]) normal() int {
	for i, col := range c.table.Columns {
		if col.Priority > 0 {
			return i
		}
	}
	return len(c.table.Columns)
}

func (c tableConvertor[T]) row(obj runtime.Object) (metav1.TableRow, error) {
	typed, ok := obj.(T)
	if !ok {
		return metav1.TableRow{}, fmt.Errorf("print a %s: got a %T", c.singular, obj)
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return metav1.TableRow{}, err
	}
	var cells []any
	if c.table.Row != nil {
		cells = c.table.Row(typed)
	}
	row := arrange(c, any(m.GetName()), any(Age(m.GetCreationTimestamp())), cells)
	return metav1.TableRow{Cells: row, Object: runtime.RawExtension{Object: obj}}, nil
}

// Age is the time since t as kubectl writes it.
func Age(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

package kinds

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"portico.dev/portico/internal/apiserver/registry"
)

// eventTTL is how long events are kept, as upstream's default.
const eventTTL = time.Hour

func namespaceKind() registry.Kind[*corev1.Namespace] {
	return registry.Kind[*corev1.Namespace]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "namespaces", Singular: "namespace", Short: []string{"ns"},
		NewObject: func() *corev1.Namespace { return &corev1.Namespace{} },
		NewList:   func() runtime.Object { return &corev1.NamespaceList{} },
		Fields: func(n *corev1.Namespace) fields.Set {
			return fields.Set{"status.phase": string(n.Status.Phase), "name": n.Name}
		},
		Rules: registry.Rules[*corev1.Namespace]{
			PrepareCreate: func(n *corev1.Namespace) {
				defaultNamespace(n) // generateName gave it a name after decoding
				n.Status.Phase = corev1.NamespaceActive
				if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
					n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
				}
			},
			PrepareUpdate: func(n, old *corev1.Namespace) { n.Spec.Finalizers = old.Spec.Finalizers },
			Validate: func(n *corev1.Namespace) field.ErrorList {
				return validateMeta(&n.ObjectMeta, false, validation.ValidateNamespaceName)
			},
			ValidateUpdate: func(n, old *corev1.Namespace) field.ErrorList {
				return validateMetaUpdate(&n.ObjectMeta, &old.ObjectMeta)
			},
		},
		Table: registry.Table[*corev1.Namespace]{
			Columns: []metav1.TableColumnDefinition{registry.Column("Status", "Active, or Terminating while its contents are removed.")},
			Row:     func(n *corev1.Namespace) []any { return []any{string(n.Status.Phase)} },
		},
	}
}

func configMapKind() registry.Kind[*corev1.ConfigMap] {
	path := field.NewPath("data")
	validateKeys := func(c *corev1.ConfigMap) field.ErrorList {
		var errs field.ErrorList
		total := 0
		for key, value := range c.Data {
			for _, msg := range utilvalidation.IsConfigMapKey(key) {
				errs = append(errs, field.Invalid(path.Key(key), key, msg))
			}
			if _, both := c.BinaryData[key]; both {
				errs = append(errs, field.Invalid(path.Key(key), key, "duplicate of key present in binaryData"))
			}
			total += len(value)
		}
		for key, value := range c.BinaryData {
			for _, msg := range utilvalidation.IsConfigMapKey(key) {
				errs = append(errs, field.Invalid(field.NewPath("binaryData").Key(key), key, msg))
			}
			total += len(value)
		}
		if total > corev1.MaxSecretSize {
			errs = append(errs, field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
		}
		return errs
	}
	return registry.Kind[*corev1.ConfigMap]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "configmaps", Singular: "configmap", Short: []string{"cm"}, Namespaced: true,
		NewObject: func() *corev1.ConfigMap { return &corev1.ConfigMap{} },
		NewList:   func() runtime.Object { return &corev1.ConfigMapList{} },
		Rules: registry.Rules[*corev1.ConfigMap]{
			Validate: func(c *corev1.ConfigMap) field.ErrorList {
				return append(validateMeta(&c.ObjectMeta, true, validation.NameIsDNSSubdomain), validateKeys(c)...)
			},
			ValidateUpdate: func(c, old *corev1.ConfigMap) field.ErrorList {
				errs := append(validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta), validateKeys(c)...)
				if old.Immutable != nil && *old.Immutable {
					if c.Immutable == nil || !*c.Immutable {
						errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
					}
					if !equality.Semantic.DeepEqual(c.Data, old.Data) {
						errs = append(errs, field.Forbidden(path, "field is immutable when `immutable` is set"))
					}
					if !equality.Semantic.DeepEqual(c.BinaryData, old.BinaryData) {
						errs = append(errs, field.Forbidden(field.NewPath("binaryData"), "field is immutable when `immutable` is set"))
					}
				}
				return errs
			},
		},
		Table: registry.Table[*corev1.ConfigMap]{
			Columns: []metav1.TableColumnDefinition{registry.Column("Data", "Number of entries.")},
			Row:     func(c *corev1.ConfigMap) []any { return []any{strconv.Itoa(len(c.Data) + len(c.BinaryData))} },
		},
	}
}

func secretKind() registry.Kind[*corev1.Secret] {
	prepare := func(s *corev1.Secret) {
		for key, value := range s.StringData {
			if s.Data == nil {
				s.Data = map[string][]byte{}
			}
			s.Data[key] = []byte(value)
		}
		s.StringData = nil
	}
	validateKeys := func(s *corev1.Secret) (errs field.ErrorList) {
		total := 0
		for key, value := range s.Data {
			total += len(value)
			for _, msg := range utilvalidation.IsConfigMapKey(key) {
				errs = append(errs, field.Invalid(field.NewPath("data").Key(key), key, msg))
			}
		}
		if total > corev1.MaxSecretSize {
			errs = append(errs, field.TooLong(field.NewPath("data"), "", corev1.MaxSecretSize))
		}
		return errs
	}
	return registry.Kind[*corev1.Secret]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "secrets", Singular: "secret", Namespaced: true,
		NewObject: func() *corev1.Secret { return &corev1.Secret{} },
		NewList:   func() runtime.Object { return &corev1.SecretList{} },
		Fields:    func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} },
		Rules: registry.Rules[*corev1.Secret]{
			PrepareCreate: prepare,
			PrepareUpdate: func(s, _ *corev1.Secret) { prepare(s) },
			Validate: func(s *corev1.Secret) field.ErrorList {
				return append(validateMeta(&s.ObjectMeta, true, validation.NameIsDNSSubdomain), validateKeys(s)...)
			},
			ValidateUpdate: func(s, old *corev1.Secret) field.ErrorList {
				errs := append(validateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta), validateKeys(s)...)
				if old.Immutable != nil && *old.Immutable {
					if s.Immutable == nil || !*s.Immutable {
						errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
					}
					if !equality.Semantic.DeepEqual(s.Data, old.Data) {
						errs = append(errs, field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
					}
				}
				return append(errs, validation.ValidateImmutableField(s.Type, old.Type, field.NewPath("type"))...)
			},
		},
		Table: registry.Table[*corev1.Secret]{
			Columns: []metav1.TableColumnDefinition{registry.Column("Type", "What the secret is for."), registry.Column("Data", "Number of entries.")},
			Row:     func(s *corev1.Secret) []any { return []any{string(s.Type), strconv.Itoa(len(s.Data))} },
		},
	}
}

func serviceAccountKind() registry.Kind[*corev1.ServiceAccount] {
	return registry.Kind[*corev1.ServiceAccount]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "serviceaccounts", Singular: "serviceaccount", Short: []string{"sa"}, Namespaced: true,
		NewObject: func() *corev1.ServiceAccount { return &corev1.ServiceAccount{} },
		NewList:   func() runtime.Object { return &corev1.ServiceAccountList{} },
		Rules: registry.Rules[*corev1.ServiceAccount]{
			Validate: func(s *corev1.ServiceAccount) field.ErrorList {
				return validateMeta(&s.ObjectMeta, true, validation.ValidateServiceAccountName)
			},
			ValidateUpdate: func(s, old *corev1.ServiceAccount) field.ErrorList {
				return validateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta)
			},
		},
		Table: registry.Table[*corev1.ServiceAccount]{
			Columns: []metav1.TableColumnDefinition{registry.Column("Secrets", "Number of secrets.")},
			Row:     func(s *corev1.ServiceAccount) []any { return []any{strconv.Itoa(len(s.Secrets))} },
		},
	}
}

func nodeKind() registry.Kind[*corev1.Node] {
	return registry.Kind[*corev1.Node]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "nodes", Singular: "node", Short: []string{"no"},
		NewObject: func() *corev1.Node { return &corev1.Node{} },
		NewList:   func() runtime.Object { return &corev1.NodeList{} },
		Fields: func(n *corev1.Node) fields.Set {
			return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
		},
		Rules: registry.Rules[*corev1.Node]{
			StatusOnCreate: true,
			Validate: func(n *corev1.Node) field.ErrorList {
				return validateMeta(&n.ObjectMeta, false, validation.NameIsDNSSubdomain)
			},
			ValidateUpdate: func(n, old *corev1.Node) field.ErrorList {
				errs := validateMetaUpdate(&n.ObjectMeta, &old.ObjectMeta)
				if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
					errs = append(errs, field.Forbidden(field.NewPath("spec", "podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
				}
				return errs
			},
		},
		Table: registry.Table[*corev1.Node]{
			AfterAge: 1,
			Columns: []metav1.TableColumnDefinition{
				registry.Column("Status", "Whether the node takes workloads."), registry.Column("Roles", "Roles from the node's labels."),
				registry.Column("Version", "Version of the agent."), registry.Wide("Internal-IP", "Address inside the cluster."),
				registry.Wide("External-IP", "Address outside the cluster."), registry.Wide("OS-Image", "The operating system."),
				registry.Wide("Kernel-Version", "The kernel."), registry.Wide("Container-Runtime", "What runs the workloads."),
				registry.Wide("Pod-CIDRs", "Ranges of the node's pods."),
			},
			Row: func(n *corev1.Node) []any {
				info := n.Status.NodeInfo
				return []any{
					nodeStatus(n), nodeRoles(n), info.KubeletVersion, nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
					unknown(info.OSImage), unknown(info.KernelVersion), unknown(info.ContainerRuntimeVersion), none(strings.Join(n.Spec.PodCIDRs, ",")),
				}
			},
		},
	}
}

func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			status = "Ready"
		} else if c.Type == corev1.NodeReady {
			status = "NotReady"
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func nodeRoles(n *corev1.Node) string {
	const prefix = "node-role.kubernetes.io/"
	var roles []string
	for label := range n.Labels {
		if role, ok := strings.CutPrefix(label, prefix); ok && role != "" {
			roles = append(roles, role)
		}
	}
	slices.Sort(roles)
	return none(strings.Join(roles, ","))
}

// nodeAddress is the first of a type, as upstream prints it: scripts take the column
// for one address.
func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return "<none>"
}

func eventKind() registry.Kind[*corev1.Event] {
	return registry.Kind[*corev1.Event]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "events", Singular: "event", Short: []string{"ev"}, Namespaced: true, TTL: eventTTL,
		NewObject: func() *corev1.Event { return &corev1.Event{} },
		NewList:   func() runtime.Object { return &corev1.EventList{} },
		Fields: func(e *corev1.Event) fields.Set {
			source := e.Source.Component
			if source == "" {
				source = e.ReportingController
			}
			return fields.Set{
				"involvedObject.kind": e.InvolvedObject.Kind, "involvedObject.namespace": e.InvolvedObject.Namespace,
				"involvedObject.name": e.InvolvedObject.Name, "involvedObject.uid": string(e.InvolvedObject.UID),
				"involvedObject.apiVersion": e.InvolvedObject.APIVersion, "involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
				"involvedObject.fieldPath": e.InvolvedObject.FieldPath, "reason": e.Reason,
				"reportingComponent": e.ReportingController, "source": source, "type": e.Type,
			}
		},
		Rules: registry.Rules[*corev1.Event]{
			CreateOnUpdate: true,
			Validate: func(e *corev1.Event) field.ErrorList {
				errs := validateMeta(&e.ObjectMeta, true, validation.NameIsDNSSubdomain)
				if ns := e.InvolvedObject.Namespace; ns != "" && ns != e.Namespace {
					errs = append(errs, field.Invalid(field.NewPath("involvedObject", "namespace"), ns, "does not match event.namespace"))
				}
				return errs
			},
			ValidateUpdate: func(e, old *corev1.Event) field.ErrorList {
				return validateMetaUpdate(&e.ObjectMeta, &old.ObjectMeta)
			},
		},
		Table: registry.Table[*corev1.Event]{
			NameWide: true,
			Columns: []metav1.TableColumnDefinition{
				registry.Column("Last Seen", "Time since it happened last."), registry.Column("Type", "Normal or Warning."),
				registry.Column("Reason", "Why, in one word."), registry.Column("Object", "What it happened to."),
				registry.Wide("Subobject", "The part of it."), registry.Wide("Source", "Who says so."), registry.Column("Message", "What happened."),
				registry.Wide("First Seen", "Time since it happened first."), registry.Wide("Count", "How often it happened."),
			},
			Row: func(e *corev1.Event) []any {
				return []any{
					registry.Age(eventTime(e)), e.Type, e.Reason, strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name,
					e.InvolvedObject.FieldPath, eventSource(e), strings.TrimSpace(e.Message), registry.Age(eventStart(e)), eventCount(e),
				}
			},
		},
	}
}

func eventTime(e *corev1.Event) metav1.Time {
	switch {
	case e.Series != nil:
		return metav1.Time{Time: e.Series.LastObservedTime.Time}
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp
	}
	return metav1.Time{Time: e.EventTime.Time}
}

func eventStart(e *corev1.Event) metav1.Time {
	if !e.FirstTimestamp.IsZero() {
		return e.FirstTimestamp
	}
	return metav1.Time{Time: e.EventTime.Time}
}

func eventCount(e *corev1.Event) string {
	count := max(e.Count, 1)
	if e.Series != nil {
		count = e.Series.Count
	}
	return strconv.Itoa(int(count))
}

// eventSource names the component, and its host where that is known. The fields of
// the older events API come first.
func eventSource(e *corev1.Event) string {
	source, host := e.Source.Component, e.Source.Host
	if source == "" {
		source, host = e.ReportingController, e.ReportingInstance
	}
	if host == "" {
		return source
	}
	return source + ", " + host
}

// unknown is s, or what kubectl prints for what a node doesn't tell.
func unknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}

// none is s, or what kubectl prints where there is nothing.
func none(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func ports(ports []corev1.ServicePort) string {
	parts := make([]string, len(ports))
	for i, p := range ports {
		parts[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			parts[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return none(strings.Join(parts, ","))
}

package apiserver

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
)

// eventTTL is how long events are kept, as upstream's default.
const eventTTL = time.Hour

func namespaceKind() kind[*corev1.Namespace] {
	return kind[*corev1.Namespace]{
		gv: corev1.SchemeGroupVersion, plural: "namespaces", singular: "namespace", short: []string{"ns"},
		newObject: func() *corev1.Namespace { return &corev1.Namespace{} },
		newList:   func() runtime.Object { return &corev1.NamespaceList{} },
		fields: func(n *corev1.Namespace) fields.Set {
			return fields.Set{"status.phase": string(n.Status.Phase), "name": n.Name}
		},
		rules: rules[*corev1.Namespace]{
			prepareCreate: func(n *corev1.Namespace) {
				defaultNamespace(n) // generateName gave it a name after decoding
				n.Status.Phase = corev1.NamespaceActive
				if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
					n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
				}
			},
			prepareUpdate: func(n, old *corev1.Namespace) { n.Spec.Finalizers = old.Spec.Finalizers },
			validate: func(n *corev1.Namespace) field.ErrorList {
				return validateMeta(&n.ObjectMeta, false, validation.ValidateNamespaceName)
			},
			validateUpdate: func(n, old *corev1.Namespace) field.ErrorList {
				return validateMetaUpdate(&n.ObjectMeta, &old.ObjectMeta)
			},
		},
		table: table[*corev1.Namespace]{
			columns: []metav1.TableColumnDefinition{column("Status", "Active, or Terminating while its contents are removed.")},
			row:     func(n *corev1.Namespace) []any { return []any{string(n.Status.Phase)} },
		},
	}
}

func configMapKind() kind[*corev1.ConfigMap] {
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
	return kind[*corev1.ConfigMap]{
		gv: corev1.SchemeGroupVersion, plural: "configmaps", singular: "configmap", short: []string{"cm"}, namespaced: true,
		newObject: func() *corev1.ConfigMap { return &corev1.ConfigMap{} },
		newList:   func() runtime.Object { return &corev1.ConfigMapList{} },
		rules: rules[*corev1.ConfigMap]{
			validate: func(c *corev1.ConfigMap) field.ErrorList {
				return append(validateMeta(&c.ObjectMeta, true, validation.NameIsDNSSubdomain), validateKeys(c)...)
			},
			validateUpdate: func(c, old *corev1.ConfigMap) field.ErrorList {
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
		table: table[*corev1.ConfigMap]{
			columns: []metav1.TableColumnDefinition{column("Data", "Number of entries.")},
			row:     func(c *corev1.ConfigMap) []any { return []any{strconv.Itoa(len(c.Data) + len(c.BinaryData))} },
		},
	}
}

func secretKind() kind[*corev1.Secret] {
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
	return kind[*corev1.Secret]{
		gv: corev1.SchemeGroupVersion, plural: "secrets", singular: "secret", namespaced: true,
		newObject: func() *corev1.Secret { return &corev1.Secret{} },
		newList:   func() runtime.Object { return &corev1.SecretList{} },
		fields:    func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} },
		rules: rules[*corev1.Secret]{
			prepareCreate: prepare,
			prepareUpdate: func(s, _ *corev1.Secret) { prepare(s) },
			validate: func(s *corev1.Secret) field.ErrorList {
				return append(validateMeta(&s.ObjectMeta, true, validation.NameIsDNSSubdomain), validateKeys(s)...)
			},
			validateUpdate: func(s, old *corev1.Secret) field.ErrorList {
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
		table: table[*corev1.Secret]{
			columns: []metav1.TableColumnDefinition{column("Type", "What the secret is for."), column("Data", "Number of entries.")},
			row:     func(s *corev1.Secret) []any { return []any{string(s.Type), strconv.Itoa(len(s.Data))} },
		},
	}
}

func serviceAccountKind() kind[*corev1.ServiceAccount] {
	return kind[*corev1.ServiceAccount]{
		gv: corev1.SchemeGroupVersion, plural: "serviceaccounts", singular: "serviceaccount", short: []string{"sa"}, namespaced: true,
		newObject: func() *corev1.ServiceAccount { return &corev1.ServiceAccount{} },
		newList:   func() runtime.Object { return &corev1.ServiceAccountList{} },
		rules: rules[*corev1.ServiceAccount]{
			validate: func(s *corev1.ServiceAccount) field.ErrorList {
				return validateMeta(&s.ObjectMeta, true, validation.ValidateServiceAccountName)
			},
			validateUpdate: func(s, old *corev1.ServiceAccount) field.ErrorList {
				return validateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta)
			},
		},
		table: table[*corev1.ServiceAccount]{
			columns: []metav1.TableColumnDefinition{column("Secrets", "Number of secrets.")},
			row:     func(s *corev1.ServiceAccount) []any { return []any{strconv.Itoa(len(s.Secrets))} },
		},
	}
}

func nodeKind() kind[*corev1.Node] {
	return kind[*corev1.Node]{
		gv: corev1.SchemeGroupVersion, plural: "nodes", singular: "node", short: []string{"no"},
		newObject: func() *corev1.Node { return &corev1.Node{} },
		newList:   func() runtime.Object { return &corev1.NodeList{} },
		fields: func(n *corev1.Node) fields.Set {
			return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
		},
		rules: rules[*corev1.Node]{
			statusOnCreate: true,
			validate: func(n *corev1.Node) field.ErrorList {
				return validateMeta(&n.ObjectMeta, false, validation.NameIsDNSSubdomain)
			},
			validateUpdate: func(n, old *corev1.Node) field.ErrorList {
				errs := validateMetaUpdate(&n.ObjectMeta, &old.ObjectMeta)
				if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
					errs = append(errs, field.Forbidden(field.NewPath("spec", "podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
				}
				return errs
			},
		},
		table: table[*corev1.Node]{
			afterAge: 1,
			columns: []metav1.TableColumnDefinition{
				column("Status", "Whether the node takes workloads."), column("Roles", "Roles from the node's labels."),
				column("Version", "Version of the agent."), wide("Internal-IP", "Address inside the cluster."),
				wide("External-IP", "Address outside the cluster."), wide("OS-Image", "The operating system."),
				wide("Kernel-Version", "The kernel."), wide("Container-Runtime", "What runs the workloads."),
				wide("Pod-CIDRs", "Ranges of the node's pods."),
			},
			row: func(n *corev1.Node) []any {
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

func eventKind() kind[*corev1.Event] {
	return kind[*corev1.Event]{
		gv: corev1.SchemeGroupVersion, plural: "events", singular: "event", short: []string{"ev"}, namespaced: true, ttl: eventTTL,
		newObject: func() *corev1.Event { return &corev1.Event{} },
		newList:   func() runtime.Object { return &corev1.EventList{} },
		fields: func(e *corev1.Event) fields.Set {
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
		rules: rules[*corev1.Event]{
			createOnUpdate: true,
			validate: func(e *corev1.Event) field.ErrorList {
				errs := validateMeta(&e.ObjectMeta, true, validation.NameIsDNSSubdomain)
				if ns := e.InvolvedObject.Namespace; ns != "" && ns != e.Namespace {
					errs = append(errs, field.Invalid(field.NewPath("involvedObject", "namespace"), ns, "does not match event.namespace"))
				}
				return errs
			},
			validateUpdate: func(e, old *corev1.Event) field.ErrorList {
				return validateMetaUpdate(&e.ObjectMeta, &old.ObjectMeta)
			},
		},
		table: table[*corev1.Event]{
			nameWide: true,
			columns: []metav1.TableColumnDefinition{
				column("Last Seen", "Time since it happened last."), column("Type", "Normal or Warning."),
				column("Reason", "Why, in one word."), column("Object", "What it happened to."),
				wide("Subobject", "The part of it."), wide("Source", "Who says so."), column("Message", "What happened."),
				wide("First Seen", "Time since it happened first."), wide("Count", "How often it happened."),
			},
			row: func(e *corev1.Event) []any {
				return []any{
					age(eventTime(e)), e.Type, e.Reason, strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name,
					e.InvolvedObject.FieldPath, eventSource(e), strings.TrimSpace(e.Message), age(eventStart(e)), eventCount(e),
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

package kinds

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"portico.dev/portico/internal/apiserver/registry"
)

// defaultClass marks the class of claims that name none.
const defaultClass = "storageclass.kubernetes.io/is-default-class"

func volumeBuilds() []buildFunc {
	sto := storagev1.SchemeGroupVersion
	return []buildFunc{
		plain(volumeKind()),
		plain(volumeClaimKind()),
		plain(storageClassKind()),
		plain(registry.Stored[storagev1.VolumeAttachment, storagev1.VolumeAttachmentList](sto, "volumeattachments", "volumeattachment", registry.InCluster).
			Fixed(func(a, old *storagev1.VolumeAttachment) field.ErrorList {
				return validation.ValidateImmutableField(a.Spec, old.Spec, field.NewPath("spec"))
			}).
			Printed(func(a *storagev1.VolumeAttachment) []any {
				volume := ""
				if v := a.Spec.Source.PersistentVolumeName; v != nil {
					volume = *v
				}
				return []any{a.Spec.Attacher, volume, a.Spec.NodeName, strconv.FormatBool(a.Status.Attached)}
			}, registry.Column("Attacher", "The driver."), registry.Column("PV", "The volume."), registry.Column("Node", "Where to."), registry.Column("Attached", "Whether it is."))),
		plain(registry.Stored[storagev1.CSIDriver, storagev1.CSIDriverList](sto, "csidrivers", "csidriver", registry.InCluster)),
		plain(registry.Stored[storagev1.CSINode, storagev1.CSINodeList](sto, "csinodes", "csinode", registry.InCluster).
			Printed(func(n *storagev1.CSINode) []any { return []any{strconv.Itoa(len(n.Spec.Drivers))} }, registry.Column("Drivers", "How many drivers the node has."))),
		plain(registry.Stored[storagev1.CSIStorageCapacity, storagev1.CSIStorageCapacityList](sto, "csistoragecapacities", "csistoragecapacity", registry.InNamespace).
			Checked(func(c *storagev1.CSIStorageCapacity) field.ErrorList {
				if c.StorageClassName == "" {
					return field.ErrorList{field.Required(field.NewPath("storageClassName"), "")}
				}
				return nil
			})),
		plain(registry.Stored[storagev1.VolumeAttributesClass, storagev1.VolumeAttributesClassList](sto, "volumeattributesclasses", "volumeattributesclass", registry.InCluster, "vac")),
	}
}

func volumeKind() registry.Kind[*corev1.PersistentVolume] {
	return registry.Stored[corev1.PersistentVolume, corev1.PersistentVolumeList](corev1.SchemeGroupVersion, "persistentvolumes", "persistentvolume", registry.InCluster, "pv").
		Checked(func(v *corev1.PersistentVolume) field.ErrorList {
			var errs field.ErrorList
			if len(v.Spec.AccessModes) == 0 {
				errs = append(errs, field.Required(field.NewPath("spec", "accessModes"), ""))
			}
			if len(v.Spec.Capacity) == 0 {
				errs = append(errs, field.Required(field.NewPath("spec", "capacity"), ""))
			}
			if v.Spec.PersistentVolumeSource == (corev1.PersistentVolumeSource{}) {
				errs = append(errs, field.Required(field.NewPath("spec"), "must specify a volume type"))
			}
			return errs
		}).
		Fixed(func(v, old *corev1.PersistentVolume) field.ErrorList {
			if equality.Semantic.DeepEqual(v.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource) {
				return nil
			}
			return field.ErrorList{field.Forbidden(field.NewPath("spec", "persistentvolumesource"), "spec.persistentvolumesource is immutable after creation")}
		}).
		Printed(func(v *corev1.PersistentVolume) []any {
			claim := ""
			if r := v.Spec.ClaimRef; r != nil {
				claim = r.Namespace + "/" + r.Name
			}
			size := v.Spec.Capacity[corev1.ResourceStorage]
			return []any{size.String(), modes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), string(v.Status.Phase), claim, v.Spec.StorageClassName}
		}, registry.Column("Capacity", "How large it is."), registry.Column("Access Modes", "Who may mount it."), registry.Column("Reclaim Policy", "What becomes of it."),
			registry.Column("Status", "Whether it is bound."), registry.Column("Claim", "To what."), registry.Column("StorageClass", "Its class."))
}

func volumeClaimKind() registry.Kind[*corev1.PersistentVolumeClaim] {
	k := registry.Stored[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList](corev1.SchemeGroupVersion, "persistentvolumeclaims", "persistentvolumeclaim", registry.InNamespace, "pvc").
		Checked(func(c *corev1.PersistentVolumeClaim) field.ErrorList {
			var errs field.ErrorList
			if len(c.Spec.AccessModes) == 0 {
				errs = append(errs, field.Required(field.NewPath("spec", "accessModes"), "at least 1 access mode is required"))
			}
			if _, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]; !ok {
				errs = append(errs, field.Required(field.NewPath("spec", "resources").Key("storage"), ""))
			}
			return errs
		}).
		Warned(unserved("PersistentVolumeClaims", workloadController)).
		Printed(func(c *corev1.PersistentVolumeClaim) []any {
			class := ""
			if c.Spec.StorageClassName != nil {
				class = *c.Spec.StorageClassName
			}
			capacity := ""
			if size, ok := c.Status.Capacity[corev1.ResourceStorage]; ok {
				capacity = size.String()
			}
			return []any{string(c.Status.Phase), c.Spec.VolumeName, capacity, modes(c.Status.AccessModes), class}
		}, registry.Column("Status", "Whether it is bound."), registry.Column("Volume", "To what."), registry.Column("Capacity", "How large that is."),
			registry.Column("Access Modes", "Who may mount it."), registry.Column("StorageClass", "Its class."))
	k.Rules.PrepareCreate = func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimPending }
	return k
}

func storageClassKind() registry.Kind[*storagev1.StorageClass] {
	return registry.Stored[storagev1.StorageClass, storagev1.StorageClassList](storagev1.SchemeGroupVersion, "storageclasses", "storageclass", registry.InCluster, "sc").
		Checked(func(c *storagev1.StorageClass) field.ErrorList {
			if c.Provisioner == "" {
				return field.ErrorList{field.Required(field.NewPath("provisioner"), "")}
			}
			return nil
		}).
		Fixed(func(c, old *storagev1.StorageClass) field.ErrorList {
			errs := validation.ValidateImmutableField(c.Provisioner, old.Provisioner, field.NewPath("provisioner"))
			return append(errs, validation.ValidateImmutableField(c.Parameters, old.Parameters, field.NewPath("parameters"))...)
		}).
		Printed(func(c *storagev1.StorageClass) []any {
			policy, binding := "", ""
			if c.ReclaimPolicy != nil {
				policy = string(*c.ReclaimPolicy)
			}
			if c.VolumeBindingMode != nil {
				binding = string(*c.VolumeBindingMode)
			}
			return []any{c.Provisioner, policy, binding, strconv.FormatBool(c.Annotations[defaultClass] == "true")}
		}, registry.Column("Provisioner", "Who makes volumes."), registry.Column("ReclaimPolicy", "What becomes of them."),
			registry.Column("VolumeBindingMode", "When they are made."), registry.Column("Default", "Whether claims that name no class get it."))
}

// modes are access modes as kubectl shortens them.
func modes(modes []corev1.PersistentVolumeAccessMode) string {
	short := map[corev1.PersistentVolumeAccessMode]string{
		corev1.ReadWriteOnce: "RWO", corev1.ReadOnlyMany: "ROX", corev1.ReadWriteMany: "RWX", corev1.ReadWriteOncePod: "RWOP",
	}
	var out []string
	for _, m := range modes {
		out = append(out, short[m])
	}
	return strings.Join(out, ",")
}

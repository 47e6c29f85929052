package apiserver

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// defaultClass marks the class of claims that name none.
const defaultClass = "storageclass.kubernetes.io/is-default-class"

func volumeBuilds() []buildFunc {
	sto := storagev1.SchemeGroupVersion
	return []buildFunc{
		plain(volumeKind()),
		plain(volumeClaimKind()),
		plain(storageClassKind()),
		plain(stored[storagev1.VolumeAttachment, storagev1.VolumeAttachmentList](sto, "volumeattachments", "volumeattachment", inCluster).
			fixed(func(a, old *storagev1.VolumeAttachment) field.ErrorList {
				return validation.ValidateImmutableField(a.Spec, old.Spec, field.NewPath("spec"))
			}).
			printed(func(a *storagev1.VolumeAttachment) []any {
				volume := ""
				if v := a.Spec.Source.PersistentVolumeName; v != nil {
					volume = *v
				}
				return []any{a.Spec.Attacher, volume, a.Spec.NodeName, strconv.FormatBool(a.Status.Attached)}
			}, column("Attacher", "The driver."), column("PV", "The volume."), column("Node", "Where to."), column("Attached", "Whether it is."))),
		plain(stored[storagev1.CSIDriver, storagev1.CSIDriverList](sto, "csidrivers", "csidriver", inCluster)),
		plain(stored[storagev1.CSINode, storagev1.CSINodeList](sto, "csinodes", "csinode", inCluster).
			printed(func(n *storagev1.CSINode) []any { return []any{strconv.Itoa(len(n.Spec.Drivers))} }, column("Drivers", "How many drivers the node has."))),
		plain(stored[storagev1.CSIStorageCapacity, storagev1.CSIStorageCapacityList](sto, "csistoragecapacities", "csistoragecapacity", inNamespace).
			checked(func(c *storagev1.CSIStorageCapacity) field.ErrorList {
				if c.StorageClassName == "" {
					return field.ErrorList{field.Required(field.NewPath("storageClassName"), "")}
				}
				return nil
			})),
		plain(stored[storagev1.VolumeAttributesClass, storagev1.VolumeAttributesClassList](sto, "volumeattributesclasses", "volumeattributesclass", inCluster, "vac")),
	}
}

func volumeKind() kind[*corev1.PersistentVolume] {
	return stored[corev1.PersistentVolume, corev1.PersistentVolumeList](corev1.SchemeGroupVersion, "persistentvolumes", "persistentvolume", inCluster, "pv").
		checked(func(v *corev1.PersistentVolume) field.ErrorList {
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
		fixed(func(v, old *corev1.PersistentVolume) field.ErrorList {
			if equality.Semantic.DeepEqual(v.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource) {
				return nil
			}
			return field.ErrorList{field.Forbidden(field.NewPath("spec", "persistentvolumesource"), "spec.persistentvolumesource is immutable after creation")}
		}).
		printed(func(v *corev1.PersistentVolume) []any {
			claim := ""
			if r := v.Spec.ClaimRef; r != nil {
				claim = r.Namespace + "/" + r.Name
			}
			size := v.Spec.Capacity[corev1.ResourceStorage]
			return []any{size.String(), modes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), string(v.Status.Phase), claim, v.Spec.StorageClassName}
		}, column("Capacity", "How large it is."), column("Access Modes", "Who may mount it."), column("Reclaim Policy", "What becomes of it."),
			column("Status", "Whether it is bound."), column("Claim", "To what."), column("StorageClass", "Its class."))
}

func volumeClaimKind() kind[*corev1.PersistentVolumeClaim] {
	k := stored[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList](corev1.SchemeGroupVersion, "persistentvolumeclaims", "persistentvolumeclaim", inNamespace, "pvc").
		checked(func(c *corev1.PersistentVolumeClaim) field.ErrorList {
			var errs field.ErrorList
			if len(c.Spec.AccessModes) == 0 {
				errs = append(errs, field.Required(field.NewPath("spec", "accessModes"), "at least 1 access mode is required"))
			}
			if _, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]; !ok {
				errs = append(errs, field.Required(field.NewPath("spec", "resources").Key("storage"), ""))
			}
			return errs
		}).
		warned(unserved("PersistentVolumeClaims", workloadController)).
		printed(func(c *corev1.PersistentVolumeClaim) []any {
			class := ""
			if c.Spec.StorageClassName != nil {
				class = *c.Spec.StorageClassName
			}
			capacity := ""
			if size, ok := c.Status.Capacity[corev1.ResourceStorage]; ok {
				capacity = size.String()
			}
			return []any{string(c.Status.Phase), c.Spec.VolumeName, capacity, modes(c.Status.AccessModes), class}
		}, column("Status", "Whether it is bound."), column("Volume", "To what."), column("Capacity", "How large that is."),
			column("Access Modes", "Who may mount it."), column("StorageClass", "Its class."))
	k.rules.prepareCreate = func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimPending }
	return k
}

func storageClassKind() kind[*storagev1.StorageClass] {
	return stored[storagev1.StorageClass, storagev1.StorageClassList](storagev1.SchemeGroupVersion, "storageclasses", "storageclass", inCluster, "sc").
		checked(func(c *storagev1.StorageClass) field.ErrorList {
			if c.Provisioner == "" {
				return field.ErrorList{field.Required(field.NewPath("provisioner"), "")}
			}
			return nil
		}).
		fixed(func(c, old *storagev1.StorageClass) field.ErrorList {
			errs := validation.ValidateImmutableField(c.Provisioner, old.Provisioner, field.NewPath("provisioner"))
			return append(errs, validation.ValidateImmutableField(c.Parameters, old.Parameters, field.NewPath("parameters"))...)
		}).
		printed(func(c *storagev1.StorageClass) []any {
			policy, binding := "", ""
			if c.ReclaimPolicy != nil {
				policy = string(*c.ReclaimPolicy)
			}
			if c.VolumeBindingMode != nil {
				binding = string(*c.VolumeBindingMode)
			}
			return []any{c.Provisioner, policy, binding, strconv.FormatBool(c.Annotations[defaultClass] == "true")}
		}, column("Provisioner", "Who makes volumes."), column("ReclaimPolicy", "What becomes of them."),
			column("VolumeBindingMode", "When they are made."), column("Default", "Whether claims that name no class get it."))
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

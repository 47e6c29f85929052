package apiserver

import (
	"encoding/json"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubevirtv1 "kubevirt.io/api/core/v1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// machineSerializers offer JSON and YAML: KubeVirt's types have no protobuf form.
// Clients that would rather have protobuf name JSON as their second choice.
type machineSerializers struct {
	runtime.NegotiatedSerializer
	infos []runtime.SerializerInfo
}

func newMachineSerializers(all runtime.NegotiatedSerializer) machineSerializers {
	infos := slices.DeleteFunc(slices.Clone(all.SupportedMediaTypes()), func(i runtime.SerializerInfo) bool {
		return i.MediaType == runtime.ContentTypeProtobuf
	})
	for i := range infos {
		infos[i].StrictSerializer = strictInstance{infos[i].StrictSerializer}
	}
	return machineSerializers{all, infos}
}

func (s machineSerializers) SupportedMediaTypes() []runtime.SerializerInfo { return s.infos }

// strictInstance finds the unknown and repeated fields of an instance's spec (API-12).
// VirtualMachineInstanceSpec decodes itself, and there the library's strict decoder
// loses sight: a misspelt field would be dropped without a word.
type strictInstance struct{ runtime.Serializer }

func (s strictInstance) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, gvk, err := s.Serializer.Decode(data, defaults, into)
	var found []error
	if err != nil {
		strict, ok := runtime.AsStrictDecodingError(err)
		if !ok {
			return obj, gvk, err
		}
		found = strict.Errors()
	}
	if found = append(found, instanceErrors(data, obj)...); len(found) > 0 {
		return obj, gvk, runtime.NewStrictDecodingError(found)
	}
	return obj, gvk, nil
}

// instanceErrors decodes data once more, of which the library made obj.
func instanceErrors(data []byte, obj runtime.Object) []error {
	if !json.Valid(data) {
		var err error
		if data, err = yaml.YAMLToJSON(data); err != nil {
			return nil // the library decoded it: this can't be
		}
	}
	var manifest struct {
		Spec json.RawMessage `json:"spec"`
	}
	var machine struct {
		Template struct {
			Spec json.RawMessage `json:"spec"`
		} `json:"template"`
	}
	if json.Unmarshal(data, &manifest) != nil || len(manifest.Spec) == 0 {
		return nil
	}
	spec, path := manifest.Spec, "spec."
	switch obj.(type) {
	case *kubevirtv1.VirtualMachineInstance:
	case *kubevirtv1.VirtualMachine:
		if json.Unmarshal(manifest.Spec, &machine) != nil {
			return nil
		}
		spec, path = machine.Template.Spec, "spec.template.spec."
	default:
		return nil
	}
	if len(spec) == 0 {
		return nil
	}
	type plain kubevirtv1.VirtualMachineInstanceSpec // without its UnmarshalJSON
	found, _ := kjson.UnmarshalStrict(spec, new(plain))
	for _, err := range found {
		if err, ok := err.(kjson.FieldError); ok {
			err.SetFieldPath(path + err.FieldPath())
		}
	}
	return found
}

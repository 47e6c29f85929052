package service

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validatePorts checks each port, and then all of them together.
func validatePorts(svc *corev1.Service) field.ErrorList {
	ports, path := svc.Spec.Ports, field.NewPath("spec", "ports")
	if len(ports) == 0 && TakesClusterIPs(svc) && !IsHeadless(svc) {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	for i := range ports {
		errs = append(errs, validatePort(&ports[i], len(ports) > 1, path.Index(i))...)
		errs = append(errs, validateNodePort(svc, &ports[i], path.Index(i).Child("nodePort"))...)
	}
	return append(errs, validateUnique(ports, path)...)
}

func validatePort(p *corev1.ServicePort, needsName bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.Name != "" {
		for _, msg := range validation.IsDNS1123Label(p.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), p.Name, msg))
		}
	} else if needsName {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	for _, msg := range validation.IsValidPortNum(int(p.Port)) {
		errs = append(errs, field.Invalid(path.Child("port"), p.Port, msg))
	}
	switch p.Protocol {
	case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
	case "":
		errs = append(errs, field.Required(path.Child("protocol"), ""))
	default:
		errs = append(errs, field.NotSupported(path.Child("protocol"), p.Protocol,
			[]corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}))
	}
	errs = append(errs, validateTargetPort(p.TargetPort, path.Child("targetPort"))...)
	if p.AppProtocol != nil {
		for _, msg := range validation.IsQualifiedName(*p.AppProtocol) {
			errs = append(errs, field.Invalid(path.Child("appProtocol"), *p.AppProtocol, msg))
		}
	}
	return errs
}

func validateTargetPort(target intstr.IntOrString, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if target.Type == intstr.String {
		for _, msg := range validation.IsValidPortName(target.StrVal) {
			errs = append(errs, field.Invalid(path, target.StrVal, msg))
		}
		return errs
	}
	for _, msg := range validation.IsValidPortNum(int(target.IntVal)) {
		errs = append(errs, field.Invalid(path, target.IntVal, msg))
	}
	return errs
}

// validateNodePort: ExternalName Services have always been allowed to carry node ports
// that mean nothing. Whether the number is in the cluster's range is ipam's to say.
func validateNodePort(svc *corev1.Service, p *corev1.ServicePort, path *field.Path) field.ErrorList {
	if p.NodePort == 0 || !TakesClusterIPs(svc) {
		return nil
	}
	if svc.Spec.Type == corev1.ServiceTypeClusterIP {
		return field.ErrorList{field.Forbidden(path, "may not be used when `type` is 'ClusterIP'")}
	}
	return nil
}

// validateUnique: names, (protocol, port) and (protocol, node port) identify a port.
// TCP and UDP may share one node port number (ALLOC-02).
func validateUnique(ports []corev1.ServicePort, path *field.Path) field.ErrorList {
	type key struct {
		protocol corev1.Protocol
		number   int32
	}
	names, numbers, nodePorts := map[string]bool{}, map[key]bool{}, map[nodePortKey]bool{}
	var errs field.ErrorList
	for i, p := range ports {
		if p.Name != "" && names[p.Name] {
			errs = append(errs, field.Duplicate(path.Index(i).Child("name"), p.Name))
		}
		if numbers[key{p.Protocol, p.Port}] {
			errs = append(errs, field.Duplicate(path.Index(i), corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		}
		if p.NodePort != 0 && nodePorts[nodePortKey{p.Protocol, p.NodePort}] {
			errs = append(errs, field.Duplicate(path.Index(i).Child("nodePort"), p.NodePort))
		}
		names[p.Name] = true
		numbers[key{p.Protocol, p.Port}] = true
		nodePorts[nodePortKey{p.Protocol, p.NodePort}] = true
	}
	return errs
}

package machine

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

var protocols = []string{string(corev1.ProtocolTCP), string(corev1.ProtocolUDP), string(corev1.ProtocolSCTP)}

func validateNetwork(spec *kubevirtv1.VirtualMachineInstanceSpec, path *field.Path) field.ErrorList {
	errs := validateLabel(spec.Hostname, path.Child("hostname"))
	errs = append(errs, validateLabel(spec.Subdomain, path.Child("subdomain"))...)
	interfaces, at := spec.Domain.Devices.Interfaces, path.Child("domain", "devices", "interfaces")
	if len(interfaces) > 1 {
		errs = append(errs, field.TooMany(at, len(interfaces), 1))
	}
	if len(spec.Networks) > 1 {
		errs = append(errs, field.TooMany(path.Child("networks"), len(spec.Networks), 1))
	}
	for i, network := range spec.Networks {
		if network.NetworkSource == (kubevirtv1.NetworkSource{}) {
			errs = append(errs, field.Required(path.Child("networks").Index(i).Child("pod"), "guests are on the pod network: write pod: {}"))
		}
		if !slices.ContainsFunc(interfaces, func(n kubevirtv1.Interface) bool { return n.Name == network.Name }) {
			errs = append(errs, field.Invalid(path.Child("networks").Index(i).Child("name"), network.Name, "no interface of domain.devices.interfaces has this name"))
		}
	}
	for i, nic := range interfaces {
		if !slices.ContainsFunc(spec.Networks, func(n kubevirtv1.Network) bool { return n.Name == nic.Name }) {
			errs = append(errs, field.Invalid(at.Index(i).Child("name"), nic.Name, "no network of spec.networks has this name; add one with pod: {}"))
		}
		if nic.Bridge != nil && nic.Masquerade != nil {
			errs = append(errs, field.Forbidden(at.Index(i).Child("masquerade"), "an interface has one binding; keep bridge"))
		}
		if nic.MacAddress != "" {
			errs = append(errs, validateMAC(nic.MacAddress, at.Index(i).Child("macAddress"))...)
		}
		errs = append(errs, validatePorts(nic.Ports, at.Index(i).Child("ports"))...)
	}
	return errs
}

// validatePorts holds ports to the rules of container ports, which they become.
func validatePorts(ports []kubevirtv1.Port, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	type number struct {
		protocol string
		port     int32
	}
	numbers, names := map[number]bool{}, map[string]bool{}
	for i, p := range ports {
		at := path.Index(i)
		for _, msg := range validation.IsValidPortNum(int(p.Port)) {
			errs = append(errs, field.Invalid(at.Child("port"), p.Port, msg))
		}
		if p.Protocol != "" && !slices.Contains(protocols, p.Protocol) {
			errs = append(errs, field.NotSupported(at.Child("protocol"), p.Protocol, protocols))
		}
		if n := (number{p.Protocol, p.Port}); numbers[n] {
			errs = append(errs, field.Duplicate(at, p.Port))
		} else {
			numbers[n] = true
		}
		if p.Name == "" {
			continue
		}
		for _, msg := range validation.IsValidPortName(p.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), p.Name, msg))
		}
		if names[p.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		names[p.Name] = true
	}
	return errs
}

func validateProbes(spec *kubevirtv1.VirtualMachineInstanceSpec, path *field.Path) field.ErrorList {
	errs := validateProbe(spec.ReadinessProbe, spec, path.Child("readinessProbe"))
	at := path.Child("livenessProbe")
	errs = append(errs, validateProbe(spec.LivenessProbe, spec, at)...)
	if p := spec.LivenessProbe; p != nil && p.SuccessThreshold > 1 {
		errs = append(errs, field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1 for a liveness probe"))
	}
	return errs
}

func validateProbe(p *kubevirtv1.Probe, spec *kubevirtv1.VirtualMachineInstanceSpec, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	handlers := 0
	for _, set := range []bool{p.HTTPGet != nil, p.TCPSocket != nil, p.Exec != nil, p.GuestAgentPing != nil} {
		if set {
			handlers++
		}
	}
	switch {
	case handlers == 0:
		errs = append(errs, field.Required(path, "a probe needs one of httpGet and tcpSocket"))
	case handlers > 1:
		errs = append(errs, field.Forbidden(path, "a probe has one handler"))
	}
	if p.HTTPGet != nil {
		at := path.Child("httpGet")
		errs = append(errs, validateProbePort(p.HTTPGet.Port, spec, at.Child("port"))...)
		schemes := []corev1.URIScheme{corev1.URISchemeHTTP, corev1.URISchemeHTTPS}
		if p.HTTPGet.Scheme != "" && !slices.Contains(schemes, p.HTTPGet.Scheme) {
			errs = append(errs, field.NotSupported(at.Child("scheme"), p.HTTPGet.Scheme, schemes))
		}
		for i, header := range p.HTTPGet.HTTPHeaders {
			for _, msg := range validation.IsHTTPHeaderName(header.Name) {
				errs = append(errs, field.Invalid(at.Child("httpHeaders").Index(i).Child("name"), header.Name, msg))
			}
		}
	}
	if p.TCPSocket != nil {
		errs = append(errs, validateProbePort(p.TCPSocket.Port, spec, path.Child("tcpSocket", "port"))...)
	}
	for _, number := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", p.InitialDelaySeconds},
		{"timeoutSeconds", p.TimeoutSeconds},
		{"periodSeconds", p.PeriodSeconds},
		{"successThreshold", p.SuccessThreshold},
		{"failureThreshold", p.FailureThreshold},
	} {
		if number.value < 0 {
			errs = append(errs, field.Invalid(path.Child(number.name), number.value, "must not be negative"))
		}
	}
	return errs
}

// validateProbePort takes a number, or the name of one of the interface's ports.
func validateProbePort(port intstr.IntOrString, spec *kubevirtv1.VirtualMachineInstanceSpec, path *field.Path) field.ErrorList {
	if port.Type == intstr.String {
		for _, nic := range spec.Domain.Devices.Interfaces {
			if slices.ContainsFunc(nic.Ports, func(p kubevirtv1.Port) bool { return p.Name == port.StrVal && p.Name != "" }) {
				return nil
			}
		}
		return field.ErrorList{field.Invalid(path, port.StrVal, "no port of domain.devices.interfaces[0].ports has this name; write the number, or name the port there")}
	}
	var errs field.ErrorList
	for _, msg := range validation.IsValidPortNum(port.IntValue()) {
		errs = append(errs, field.Invalid(path, port.IntValue(), msg))
	}
	return errs
}

func validateLabel(label string, path *field.Path) field.ErrorList {
	if label == "" {
		return nil
	}
	var errs field.ErrorList
	for _, msg := range validation.IsDNS1123Label(label) {
		errs = append(errs, field.Invalid(path, label, msg))
	}
	return errs
}

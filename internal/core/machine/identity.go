package machine

import (
	"crypto/sha1" //nolint:gosec // RFC 9562 names SHA-1 for version 5; nothing secret depends on it
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Addresses reads AddressesAnnotation: at most one address of each family, the
// primary first. An object without the annotation has none.
func Addresses(obj metav1.Object) ([]netip.Addr, error) {
	text, ok := obj.GetAnnotations()[AddressesAnnotation]
	if !ok {
		return nil, nil
	}
	var out []netip.Addr
	for part := range strings.SplitSeq(text, ",") {
		addr, err := netip.ParseAddr(strings.TrimSpace(part))
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is not an IP address", part)
		case addr.Zone() != "" || addr.Is4In6():
			return nil, fmt.Errorf("%s must be plain, without a zone and not IPv4 in IPv6", addr)
		case len(out) == 1 && out[0].Is4() == addr.Is4(), len(out) == 2:
			return nil, fmt.Errorf("%q holds two addresses of one family; at most one of each is possible", text)
		}
		out = append(out, addr)
	}
	return out, nil
}

// FormatAddresses writes what Addresses reads.
func FormatAddresses(addrs []netip.Addr) string {
	texts := make([]string, len(addrs))
	for i, a := range addrs {
		texts[i] = a.String()
	}
	return strings.Join(texts, ",")
}

// HostName is the guest's host name: the one the instance asks for, or the first
// label of its name, cut to the 63 characters of a DNS label.
func HostName(vmi *kubevirtv1.VirtualMachineInstance) string {
	if vmi.Spec.Hostname != "" {
		return vmi.Spec.Hostname
	}
	name, _, _ := strings.Cut(vmi.Name, ".")
	return cut(name, validation.DNS1123LabelMaxLength)
}

// PodName is the name of the instance's pod. It follows from the instance alone,
// so that two controllers at once make one pod, and the hash keeps the pods of
// two instances of one name apart while the older ends.
func PodName(vmi *kubevirtv1.VirtualMachineInstance) string {
	const prefix = "virt-launcher-"
	suffix := "-" + shortHash(string(vmi.UID))
	return prefix + cut(vmi.Name, validation.DNS1123SubdomainMaxLength-len(prefix)-len(suffix)) + suffix
}

// instanceID is the value of the label vmi.kubevirt.io/id: the name where it
// fits into a label's value, else its beginning and a hash.
func instanceID(name string) string {
	if len(name) <= validation.LabelValueMaxLength {
		return name
	}
	suffix := "-" + shortHash(name)
	return cut(name, validation.LabelValueMaxLength-len(suffix)) + suffix
}

// firmwareNamespace separates the UUIDs derived here from all others.
var firmwareNamespace = [16]byte{0xb5, 0x1d, 0x0a, 0x4e, 0x6c, 0x57, 0x4f, 0x0b, 0x9a, 0x4b, 0x6f, 0x0c, 0x2e, 0x93, 0x71, 0xd8}

// FirmwareUUID is the UUID that the guest's firmware shows: the one the instance
// asks for, or one derived from the object that outlives restarts: the instance's
// VirtualMachine, where it has one. An object created anew under an old name is
// another machine and gets another UUID.
func FirmwareUUID(vmi *kubevirtv1.VirtualMachineInstance) types.UID {
	if f := vmi.Spec.Domain.Firmware; f != nil && f.UUID != "" {
		return f.UUID
	}
	if owner := metav1.GetControllerOf(vmi); owner != nil {
		return firmwareUUID(owner.UID)
	}
	return firmwareUUID(vmi.UID)
}

// firmwareUUID derives a version 5 UUID: RFC 9562, section 5.5.
func firmwareUUID(owner types.UID) types.UID {
	h := sha1.New() //nolint:gosec // see the import
	h.Write(firmwareNamespace[:])
	h.Write([]byte(owner))
	u := h.Sum(nil)[:16]
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	x := hex.EncodeToString(u)
	return types.UID(x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:])
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}

// cut shortens a name to n bytes without leaving a separator at its end.
func cut(name string, n int) string {
	if len(name) > n {
		name = name[:n]
	}
	return strings.TrimRight(name, "-.")
}

package endpoints

import (
	"crypto/sha256"
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// nameAlphabet is the one Kubernetes uses for generated names: no vowels, so
// that no words come out, and no characters that look alike.
const nameAlphabet = "bcdfghjklmnpqrstvwxz2456789"

// sliceName is the first free name of the fixed list of names that an owner's
// slices of one family can have. Two controllers that both believe to be in
// charge thus try the same name, and one of them fails, instead of leaving two
// slices that say the same.
func sliceName(service, seed string, address discoveryv1.AddressType, taken func(string) bool) string {
	for n := 0; ; n++ {
		sum := sha256.Sum256([]byte(seed + "/" + string(address) + "/" + strconv.Itoa(n)))
		suffix := make([]byte, 5)
		for i := range suffix {
			suffix[i] = nameAlphabet[int(sum[i])%len(nameAlphabet)]
		}
		if name := service + "-" + string(suffix); !taken(name) {
			return name
		}
	}
}

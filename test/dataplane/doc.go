// Package dataplane holds the black-box suite that every data plane passes: real
// packets between namespaces as hosts, TCP and UDP, IPv4 and IPv6. It has tests
// only; each names the behaviours it proves.
package dataplane

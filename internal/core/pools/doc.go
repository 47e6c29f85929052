// Package pools gives addresses of MetalLB's IPAddressPools to Services of type LoadBalancer.
//
//	metallb.Config, reserved ranges --> Parse --> Set (which pool has an address), Faults
//	Set, Services as they are       --> Allocator --> addresses of a Service, or a Refusal
//
// In: values. Out: values and sentences for people, with the remedy. It never touches the
// API; whoever calls it writes what it decides, and keeps the Allocator in step with what
// was written.
package pools

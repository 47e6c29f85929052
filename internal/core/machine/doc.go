// Package machine holds the rules of VirtualMachine and VirtualMachineInstance
// of kubevirt.io/v1: what a manifest may say, when a machine runs, what instance
// and what pod follow from it, and what the statuses say.
//
// In: API objects and the time, as values. Out: values: errors and warnings,
// decisions, new objects, new statuses. Everything is a pure function of its
// arguments: nothing here reads the API, a clock or a disk, and no argument is
// changed unless the function's name says so (SetDefaults, KeepClaims, Apply).
//
// The files, in the order in which a machine meets them:
//
//	support*.go     which fields of the API Portico honours, and what happens to the rest
//	defaults.go     what an unset field means
//	validate*.go    what is refused, with the field's path
//	strategy.go     run strategies: start, stop or leave, and the back-off
//	subresources.go start, stop and restart as virtctl asks for them
//	instance.go     VirtualMachine -> VirtualMachineInstance
//	pod.go          VirtualMachineInstance -> Pod
//	*status.go      the way back: Pod -> instance's status -> machine's status
//	pending.go      what a running instance hasn't got of its template yet
package machine

// Package problems says on each Service what of it, or of its slices, isn't served as
// written: endpoints with addresses that can't be used, ports that are none, addresses
// that an older Service has.
//
//	Services, EndpointSlices -> routing.Problems (pure) -> condition and event on the Service
//
// In: both kinds from the shared caches. Out: the condition routing.ServedCondition and
// a Warning event where something is wrong, nothing where all is well; a slice that no
// Service has gets an event itself. What is served meanwhile isn't decided here: agents
// decide it by the same functions, and never write.
package problems

// Package pods follows the pods that have names of their own in DNS, or whose
// namespace is looked for in the names they ask for.
//
// In: an API server, by client-go. Out: compact values to a Consumer. The objects
// themselves are garbage as soon as they were translated. It never writes the API and
// never decides what a pod's names are: that is core/records.
package pods

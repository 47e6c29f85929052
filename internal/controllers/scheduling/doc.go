// Package scheduling gives pods without a node one that fits, or says why none
// does.
//
// In: watches of pods and nodes. Out: bindings; the condition PodScheduled of
// pods that wait; events. It touches nothing else of a pod, and no pod that
// names another scheduler.
//
// One pod is decided at a time, so that two pods never get the last place of a
// node. A second scheduler that thinks that it leads can overfill a node, but
// not move a pod: the API server binds a pod once.
package scheduling

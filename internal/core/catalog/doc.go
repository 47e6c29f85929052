// Package catalog holds what a node needs to know of the cluster's objects, as
// compact values: Service, Slice and Node.
//
// In: API objects, once each, from a watch. Out: values that routing, records
// and the agent share; the objects themselves are dropped, so that an agent's
// memory grows with what it uses and not with what people write in annotations.
//
// Nothing here decides anything: which endpoint gets traffic is routing's job,
// which record is answered is records'. Values are immutable once made; whoever
// wants another makes a new one.
package catalog

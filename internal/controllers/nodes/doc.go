// Package nodes gives each node its pod ranges, and notices when a node is dead.
//
// In: watches of nodes, of their leases in kube-node-lease, and of pods. Out:
// Node.spec.podCIDRs, cut from the cluster's ranges, once for each node; the
// condition Ready=Unknown of a node that has given no sign of life for 40 s, and
// Ready=False of its pods, so that no Service sends anybody there; events; the end
// of pods whose Node was deleted.
//
// It never evicts from a silent node: whether its guests still run, and write to
// their disks, can't be known from here. Starting them elsewhere takes fencing, or
// somebody who deletes the Node, and says by that that they are off.
package nodes

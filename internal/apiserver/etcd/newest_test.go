package etcd

import "testing"

// Members of a cluster may have acknowledged what this process hasn't heard of.
func TestOnlyTheStoreOfThisProcessKnowsRevisions(t *testing.T) {
	if _, ok := any(&External{}).(revisions); ok {
		t.Error("an external store tells revisions without asking its members")
	}
}

// Package settings reads what people say to every node's DNS server: the ConfigMap
// portico-dns in kube-system, with entries of their own and the servers for names
// outside of the cluster.
//
// In: the ConfigMap, by a watch. Out: Settings, and a sentence for each line that means
// nothing; what is good is used. It never writes the API, and answers no query.
package settings

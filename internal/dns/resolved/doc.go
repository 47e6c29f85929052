// Package resolved has the host's own programs find the cluster's names where
// systemd-resolved is their resolver.
//
// In: a link, the servers behind it and the cluster's domain. Out: calls by D-Bus that
// make this link's servers the ones for that domain and for nothing else
// (org.freedesktop.resolve1(5)), anew whenever resolved starts anew, and taken back at the
// end. Resolved itself forgets them when the link goes.
//
// It never touches resolv.conf or any other file, never starts resolved, and leaves one
// alone that serves another network namespace: the links there aren't ours.
package resolved

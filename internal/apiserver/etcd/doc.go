// Package etcd runs the embedded store and makes the storage of each resource on
// top of it.
//
// The embedded server has one member and no socket at all: its clients are
// in-process calls, so nothing outside this process can reach the data and a write
// costs no network round trip.
package etcd

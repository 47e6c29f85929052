// Package sysctl reads and writes kernel parameters below /proc/sys and keeps a
// journal of what was changed, so that everything can be put back.
//
// In: keys such as "net/ipv4/conf/eth0/forwarding" (slashes, because interface
// names may hold dots) and the values wanted. Out: the kernel's parameters, and a
// journal file that is on disk before the kernel sees a change.
//
// It never decides which parameters are needed, and it restores only values that
// are still the ones it wrote: what somebody else has changed since is his.
package sysctl

// Command shell opens a shell in the scene of the data plane's suite: hosts, links and
// routes of package scene, Portico's data plane on both nodes, servers in the guests and
// a few Services. `make rig-shell` runs it.
//
// In: Services and EndpointSlices in YAML (its own, or the files named as arguments), the
// name of the host in HOST, and commands: from a terminal or as a script. Out: what the
// commands print; the exit code is the shell's. All vanishes when it ends, however it
// ends. It talks to no API server, and never touches the host's own network.
package main

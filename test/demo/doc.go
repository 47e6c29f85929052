// Command demo performs the procedure "exposing a virtual machine by using a
// service" with kubectl and real guests, in network namespaces of its own, and checks
// every step. `make demo` runs it; its test is the end-to-end test of the project.
package main

// Package rbac decides who may do what, from the objects of
// rbac.authorization.k8s.io/v1.
//
// In: roles, bindings, a user and what it asks for. Out: yes and by which binding,
// or the rules a user has in a namespace; whether some rules cover others, which is
// what keeps people from granting more than they have; whether an object is well
// formed; the default roles and what is missing in stored ones.
//
//	Policy  index of bindings by subject: a decision looks only at the asking
//	        user's own bindings, however many there are in all
//	Covers  rules against rules
//
// It does no I/O and holds no lock: whoever shares a Policy guards it.
package rbac

// Package reviews answers who somebody is and what somebody may do: the kinds of
// authentication.k8s.io and authorization.k8s.io that are created and never stored.
//
// In: the server's authenticator of tokens and its authorizer. Out: REST storages.
// The answers are those that a request itself would get, for they come from the same.
package reviews

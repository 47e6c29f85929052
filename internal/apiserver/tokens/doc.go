// Package tokens signs and checks the tokens of service accounts (KEP-1205): JSON
// Web Tokens, bound to audiences, to a time, to one ServiceAccount and, if asked for,
// to a Pod, Secret or Node.
//
// In: the signing key and a way to look objects up. Out: an authenticator of tokens,
// and the subresource serviceaccounts/token that hands them out. Nothing is stored: a
// token is good as long as its signature, its time and the objects it names are, and
// a deleted ServiceAccount, or one made anew under its name, ends it at once.
package tokens

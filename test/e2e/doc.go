// Package e2e holds what bad luck and clumsy users do to a whole Portico with real
// guests: crashes, lost rules and links, new addresses. The long form
// (PORTICO_LONG=1) has more of it.
package e2e

//go:build race

package routing

// slowdown: the race detector makes everything some ten times slower.
const slowdown = 10

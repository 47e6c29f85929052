//go:build !race

package routing

const slowdown = 1

// Package metallb is the edge towards MetalLB's custom resources: it defines them on an API
// server that has none, follows what people write, and writes what is found out.
//
//	definitions (crds/*.yaml) -- Install --> API server
//	objects of six kinds -- list and watch, Follow --> core/metallb.Config, whole at each change
//	core/metallb values with a status -- Apply --> API server
//
// It decides nothing: pools are read by core/pools, announcements by who announces.
// Definitions that somebody else made, MetalLB itself above all, are left alone.
package metallb

package agent

import "portico.dev/portico/internal/core/catalog"

// View is one Service as it is now, with all its slices of both families.
type View = catalog.View

// Consumer takes the agent's views. Its methods are called from one goroutine, in
// order, and must not block for long: a slow consumer delays the others' news.
// Views and what they point to are shared by all consumers: nobody changes them.
type Consumer interface {
	// Replace says that views are all there is: whatever the consumer holds
	// besides is gone. It is called once after the first full list, with the
	// node as it is then, and again when the Node itself changed in a way that
	// may concern every Service (labels, zone).
	Replace(node *catalog.Node, views []View)
	// Update hands over the Services that changed since the last call, one view
	// for each.
	Update(views []View)
}

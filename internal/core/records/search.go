package records

import (
	"net/netip"
	"slices"
)

// searchDots is the ndots that Kubernetes gives pods: a name with so many dots is whole.
const searchDots = 5

// clientMark begins the keys of clients; no name begins with it, and no address' name.
const clientMark = 0xFE

func appendClientKey(b []byte, a netip.Addr) []byte {
	at := len(b)
	b = appendAddrKey(b, a)
	b[at] = clientMark
	return b
}

// client writes to whose namespace an address belongs. One that pods of two namespaces
// have is nobody's, and so is one that a pod shares with its node.
func (z *Zone) client(e *edit, a netip.Addr) {
	key := string(appendClientKey(nil, a))
	before := z.table.names.size
	defer func() { z.clientKeys += z.table.names.size - before }()
	pods := z.clients[a]
	if len(pods) > 0 && !slices.ContainsFunc(pods, func(p *Pod) bool { return p.Name.Namespace != pods[0].Name.Namespace }) {
		if path, ok := under(z.table.zone, pods[0].Name.Namespace, "svc"); ok {
			z.table.names.set(e, key, Node(path))
			return
		}
	}
	z.table.names.remove(e, key)
}

// addClient and removeClient keep the addresses from which a pod asks.

func (z *Zone) addClient(e *edit, p *Pod) {
	if !z.search || p == nil || p.HostNetwork {
		return
	}
	for _, a := range p.Addrs {
		z.clients[a] = append(z.clients[a], p)
		z.client(e, a)
	}
}

func (z *Zone) removeClient(e *edit, p *Pod) {
	if !z.search || p == nil || p.HostNetwork {
		return
	}
	for _, a := range p.Addrs {
		if z.clients[a] = slices.DeleteFunc(z.clients[a], func(o *Pod) bool { return o == p }); len(z.clients[a]) == 0 {
			delete(z.clients, a)
		}
		z.client(e, a)
	}
}

// Search looks for a name that isn't ours in the search path of the client's namespace,
// as a pod's resolver does: NS.svc.ZONE, svc.ZONE, ZONE. It gives the whole name, written
// behind dst, of the first that has data. Names with five dots are whole already.
func (t *Table) Search(dst, name []byte, client netip.Addr) (whole []byte, r Result, found bool) {
	if labels := countLabels(name); labels == 0 || labels > searchDots {
		return dst, r, false
	}
	var key [addrKeySize]byte
	path, known := t.names.find(appendClientKey(key[:0], client))
	if !known {
		return dst, r, false
	}
	for len(path) >= len(t.zone) {
		if len(name)-1+len(path) <= maxName {
			whole = append(append(dst, name[:len(name)-1]...), path...)
			if r = t.Find(whole[len(dst):]); r.Node != "" || r.Pod.IsValid() {
				return whole, r, true
			}
		}
		path = path[1+int(path[0]):]
	}
	return dst, r, false
}

func countLabels(name []byte) (n int) {
	for i := 0; name[i] != 0; i += 1 + int(name[i]) {
		n++
	}
	return n
}

// AppendAlias writes a CNAME whose owner is the question.
func (t *Table) AppendAlias(dst, target []byte) []byte {
	e := encoder{ttl: t.ttl, data: dst}
	e.begin(TypeCNAME)
	e.data = append(e.data, target...)
	e.close()
	return e.data
}

package iptables

import (
	"crypto/sha256"
	"encoding/base32"
	"regexp"
	"strconv"
	"strings"

	"portico.dev/portico/internal/core/routing"
)

// prefix begins the name of every chain of ours.
const prefix = "PORTICO-"

// The fixed chains.
const (
	preChain    = prefix + "PRE"    // nat: from PREROUTING
	natOutChain = prefix + "DNAT"   // nat: from OUTPUT
	postChain   = prefix + "POST"   // nat: from POSTROUTING
	masqChain   = prefix + "MASQ"   // nat: what was marked
	inChain     = prefix + "IN"     // filter: from INPUT
	forwardName = prefix + "FWD"    // filter: from FORWARD
	outChain    = prefix + "OUT"    // filter: from OUTPUT
	checkChain  = prefix + "CHECK"  // filter: what nobody translated
	newChain    = prefix + "NEW"    // filter: first packets
	refuseChain = prefix + "REFUSE" // filter: an error at once
	localChain  = prefix + "LOCAL"  // filter: loopback addresses, for this host alone
)

// The roots of trees.
const (
	servicesTree = prefix + "SVC"   // nat: addresses, for everybody
	outsideTree  = prefix + "EXT"   // nat: those that differ for clients outside
	nodeTree     = prefix + "NODE"  // nat: node ports
	outNodeTree  = prefix + "NODEX" // nat: those that differ for clients outside
	closedTree   = prefix + "NO"    // filter: addresses
	closedNode   = prefix + "NONODE"
	balancerTree = prefix + "LB"   // filter: load-balancer addresses
	externalTree = prefix + "XIP"  // filter: external IPs
	sourceTree   = prefix + "FROM" // filter: UDP frontends, as sources
)

const (
	// Backends of one Service port, family and policy. Small letters sort behind the other
	// chains, see batch.
	setPrefix   = prefix + "set-"
	guardPrefix = prefix + "GRD-" // who may use one frontend
)

// ourName is the shape of our chains' names: another with the prefix is somebody else's.
var ourName = regexp.MustCompile(`^PORTICO-(PRE|DNAT|POST|MASQ|IN|FWD|OUT|CHECK|NEW|REFUSE|LOCAL` +
	`|(SVC|EXT|NO|LB|XIP|FROM)(-[0-9a-f]{1,2})?|(NODE|NODEX|NONODE)(-[tus][0-9a-f]{2,3})?` +
	`|set-[a-z2-7]{12}r?[0-9a-v]{0,3}|GRD-[a-z2-7]{12}[io])$`)

func ours(chain string) bool { return ourName.MatchString(chain) }

var lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// digest12 makes a short name of what a chain is for: a chain's name has 28 bytes at most
// (XT_EXTENSION_MAXNAMELEN).
func digest12(of string) string {
	sum := sha256.Sum256([]byte(of))
	return lower.EncodeToString(sum[:8])[:12]
}

// setName names the chain of the set that f leads to, "" when it leads to none.
func setName(f *routing.Frontend, v routing.Verdict) string {
	if !v.Serves() || len(f.Of(v.Action)) == 0 {
		return ""
	}
	return nameOfSet(f.Service.String(), f.PortName, f.Key, v.Action)
}

func nameOfSet(service, port string, key routing.Key, to routing.Action) string {
	return setPrefix + digest12(service+":"+port+" "+key.Protocol.String()+" "+strconv.FormatBool(key.Addr.Is6())+" "+to.String())
}

// listName names xt_recent's list of the clients of one backend.
func listName(f *routing.Frontend, backend string) string {
	return prefix + digest12(f.Service.String()+":"+f.PortName+" "+f.Protocol.String()+" "+backend)
}

func guardName(key routing.Key, outside bool) string {
	side := "i"
	if outside {
		side = "o"
	}
	return guardPrefix + digest12(key.String()) + side
}

// unquoted leaves out what would end a comment.
var unquoted = strings.NewReplacer(`"`, "", `\`, "", "\n", "")

// title is a comment that tells people whose a rule is.
func title(f *routing.Frontend) string {
	s := f.Service.String()
	if f.PortName != "" {
		s += ":" + f.PortName
	}
	return ` -m comment --comment "` + unquoted.Replace(s) + `"`
}

package nftables

import (
	"testing"

	"golang.org/x/sys/unix"
)

// All notices that wait are one disturbance, or none: a flush of both families is repaired
// once.
func TestHeardTogether(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range pair {
		t.Cleanup(func() { _ = unix.Close(fd) })
	}
	notice := func(family uint8, table string) []byte {
		var body attrs
		body.string(unix.NFTA_TABLE_NAME, table)
		return appendMessage(nil, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE, 0, 0, family, 0, body)
	}
	ip, ip6, foreign := notice(unix.NFPROTO_IPV4, Table), notice(unix.NFPROTO_IPV6, Table), notice(unix.NFPROTO_IPV4, "filter")
	buf := make([]byte, 1<<10)
	for name, c := range map[string]struct {
		notices [][]byte
		want    bool
	}{
		"none":    {},
		"foreign": {notices: [][]byte{foreign, notice(unix.NFPROTO_BRIDGE, Table)}},
		"ours":    {[][]byte{ip, foreign, ip6, foreign}, true},
	} {
		for _, b := range c.notices {
			if err := unix.Sendto(pair[0], b, 0, nil); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := heard(pair[1], buf); got != c.want || err != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if n, _, err := unix.Recvfrom(pair[1], buf, unix.MSG_DONTWAIT); err != unix.EAGAIN {
			t.Errorf("%s: %d bytes still wait, %v", name, n, err)
			for ; err == nil; _, _, err = unix.Recvfrom(pair[1], buf, unix.MSG_DONTWAIT) {
			}
		}
	}
}

package userspace

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
)

// socket is a protocol and a local address.
type socket struct {
	protocol catalog.Protocol
	at       netip.AddrPort
}

// procSocket is one line of /proc/net/tcp and its like (proc_net(5)).
type procSocket struct {
	socket
	listens bool // it takes connections, or datagrams of anybody
}

// Socket states as the kernel numbers them (include/net/tcp_states.h); UDP uses them too.
const (
	stateClosed = 7
	stateListen = 10
)

// readSockets gives the sockets of a network namespace by their inodes.
func readSockets(folder string) (map[uint64]procSocket, error) {
	out := map[uint64]procSocket{}
	for name, protocol := range map[string]catalog.Protocol{"tcp": protocolTCP, "tcp6": protocolTCP, "udp": protocolUDP, "udp6": protocolUDP} {
		file, err := os.Open(filepath.Join(folder, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without that family
		}
		if err != nil {
			return nil, fmt.Errorf("read the kernel's sockets: %w", err)
		}
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			at, state, inode, ok := parseSocket(lines.Text())
			if ok {
				out[inode] = procSocket{socket{protocol, at}, protocol == protocolTCP && state == stateListen || protocol == protocolUDP && state == stateClosed}
			}
		}
		if err := errors.Join(lines.Err(), file.Close()); err != nil {
			return nil, fmt.Errorf("read the kernel's sockets: %w", err)
		}
	}
	return out, nil
}

// parseSocket reads "sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode".
func parseSocket(line string) (at netip.AddrPort, state, inode uint64, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 10 {
		return at, 0, 0, false
	}
	host, port, _ := strings.Cut(fields[1], ":")
	raw, err := hex.DecodeString(host)
	number, err2 := strconv.ParseUint(port, 16, 16)
	state, err3 := strconv.ParseUint(fields[3], 16, 8)
	inode, err4 := strconv.ParseUint(fields[9], 10, 64)
	if errors.Join(err, err2, err3, err4) != nil || len(raw)%4 != 0 {
		return at, 0, 0, false
	}
	for word := range slices.Chunk(raw, 4) { // each is a number in the machine's order
		binary.NativeEndian.PutUint32(word, binary.BigEndian.Uint32(word))
	}
	a, valid := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(number)), state, inode, valid
}

// DirectReader reads where a process with a Direct data plane listens, and changes
// nothing. It needs the rights of that process (proc_pid_fd(5)). What lies behind its
// sockets it can't see: backends, policies and source ranges.
type DirectReader struct{ process int }

var _ dataplane.Inspector = (*DirectReader)(nil)

// OpenDirectReader reads the sockets of a process.
func OpenDirectReader(process int) *DirectReader { return &DirectReader{process} }

// Close implements dataplane.Inspector.
func (r *DirectReader) Close() error { return nil }

// sockets are the process's own.
func (r *DirectReader) sockets() (out []procSocket, err error) {
	proc := filepath.Join("/proc", strconv.Itoa(r.process))
	all, err := readSockets(filepath.Join(proc, "net"))
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(proc, "fd")
	files, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("read the sockets of the agent: %w", r.hidden(err))
	}
	for _, f := range files {
		to, err := os.Readlink(filepath.Join(folder, f.Name()))
		var inode uint64
		if errors.Is(err, fs.ErrPermission) { // the folder is this user's, but the process may do more
			return nil, fmt.Errorf("read the sockets of the agent: %w", r.hidden(err))
		}
		if err != nil {
			continue // it was closed meanwhile
		}
		if _, err := fmt.Sscanf(to, "socket:[%d]", &inode); err != nil {
			continue
		}
		if s, ok := all[inode]; ok {
			out = append(out, s)
		}
	}
	return out, nil
}

// hidden says who may read what this process may not.
func (r *DirectReader) hidden(err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("only root and the user of process %d see them, the latter when that process may do no more than it: %w", r.process, err)
}

// Contents implements dataplane.Inspector. What listens on loopback is not for Services.
// Ports of health checks look as external addresses do.
func (r *DirectReader) Contents(context.Context) (*dataplane.Contents, error) {
	all, err := r.sockets()
	if err != nil {
		return nil, err
	}
	out := &dataplane.Contents{Tables: []string{fmt.Sprintf("sockets of process %d", r.process)}}
	for _, s := range all {
		if s.listens && !s.at.Addr().IsLoopback() && !s.at.Addr().IsUnspecified() {
			way := dataplane.Way{Proxy: s.at}
			out.Frontends = append(out.Frontends, dataplane.Frontend{
				Key: routing.Key{Addr: s.at.Addr(), Protocol: s.protocol, Port: s.at.Port()}, Kind: routing.ExternalIP, Inside: way, Outside: way,
			})
		}
	}
	slices.SortFunc(out.Frontends, func(a, b dataplane.Frontend) int { return dataplane.CompareKeys(a.Key, b.Key) })
	return out, nil
}

// Connections implements dataplane.Inspector, for TCP.
func (r *DirectReader) Connections(_ context.Context, contents *dataplane.Contents) (map[routing.Key]int, error) {
	all, err := r.sockets()
	if err != nil {
		return nil, err
	}
	out := map[routing.Key]int{}
	for i := range contents.Frontends {
		out[contents.Frontends[i].Key] = 0
	}
	for _, s := range all {
		key := routing.Key{Addr: s.at.Addr(), Protocol: s.protocol, Port: s.at.Port()}
		if _, ok := out[key]; ok && !s.listens {
			out[key]++
		}
	}
	return out, nil
}

// Verify implements dataplane.Inspector: what a Direct data plane serves listens, at the
// addresses that the host of the calling thread has.
func (r *DirectReader) Verify(ctx context.Context, _ dataplane.Site, state dataplane.State) ([]string, error) {
	have, err := r.Contents(ctx)
	if err != nil {
		return nil, err
	}
	open := map[routing.Key]bool{}
	for i := range have.Frontends {
		open[have.Frontends[i].Key] = true
	}
	own, err := hostAddresses()
	if err != nil {
		return nil, err
	}
	var words []string
	for _, f := range state.Frontends {
		if f.Kind == routing.ClusterIP || !f.Serves() || f.Protocol != protocolTCP && f.Protocol != protocolUDP {
			continue
		}
		at := []netip.Addr{f.Addr}
		if f.AnyNode() {
			at = state.NodeAddresses
		}
		for _, a := range at {
			key := routing.Key{Addr: a, Protocol: f.Protocol, Port: f.Port}
			if own[a] && a.Is6() == f.Addr.Is6() && !open[key] {
				words = append(words, fmt.Sprintf("%s of %s: nobody listens", key, f.Service))
			}
		}
	}
	slices.Sort(words)
	return words, nil
}

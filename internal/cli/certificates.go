package cli

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/routes/rtevent"
)

// endingSoon is how long before its end an authority is warned of: as long as
// certificates live, for from then on they are cut short.
const endingSoon = certs.LeafLife

// authorityEnding is the warning about an authority that ends soon; empty where it
// doesn't.
func authorityEnding(dataDir string, end, now time.Time) string {
	if end.Sub(now) > endingSoon {
		return ""
	}
	return "the certificate authority ends on " + end.Format(time.DateOnly) + ", and with it every kubeconfig; before that day stop `portico up`, remove ca.crt and ca.key in " +
		filepath.Join(dataDir, "pki") + ", start it again, and make the kubeconfigs of users and nodes anew (`portico user create`)"
}

// lookAtAuthority finds what is to know of the certificates.
func (r *statusRun) lookAtAuthority() {
	end, err := certs.ReadEnd(filepath.Join(r.dataDir, "pki"))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return // another host's, or another user's
	case err != nil:
		r.problem("%w", err)
	default:
		if text := authorityEnding(r.dataDir, end, time.Now()); text != "" {
			r.problem("%s", text)
		}
	}
}

// followHost keeps the API's certificate good for each address of this host, until ctx
// ends (NET-04). It is for an API that listens on all of them.
func followHost(ctx context.Context, serving *certs.Serving, log *slog.Logger) error {
	w, err := rtevent.Open()
	if err != nil {
		return err
	}
	look := func() {
		addrs, err := hostAddresses()
		if err == nil {
			err = serving.FollowHost(addrs...)
		}
		if err != nil {
			log.Warn("The API's certificate doesn't know this host's present addresses", "error", err)
		}
	}
	look()
	return w.Run(ctx, func(e rtevent.Event) {
		if e.Kind == rtevent.Addr || e.Kind == rtevent.Lost {
			look()
		}
	})
}

// hostAddresses are those by which others may reach this host.
func hostAddresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range list {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().IsGlobalUnicast() {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, nil
}

package cli

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/apiserver/etcd"
)

// etcdOptions say where the store is, if it isn't this process's own.
type etcdOptions struct {
	servers, ca, cert, key, prefix string

	external *etcd.ExternalConfig // parsed by complete; nil: the embedded store
}

// etcdTimeout is how long a start waits for an etcd that is starting too.
const etcdTimeout = 20 * time.Second

func (o *etcdOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.servers, "etcd-servers", "", "`URLs` of an etcd cluster's members to keep everything in (default: an own store in the data directory)")
	f.StringVar(&o.ca, "etcd-cafile", "", "`file` with the authority of etcd's certificates, PEM (default: the host's)")
	f.StringVar(&o.cert, "etcd-certfile", "", "`file` with this server's client certificate for etcd, PEM")
	f.StringVar(&o.key, "etcd-keyfile", "", "`file` with the key of --etcd-certfile, PEM")
	f.StringVar(&o.prefix, "etcd-prefix", "", "`path` before all keys, for several clusters on one etcd, like /site-a (default: none)")
}

// complete parses and checks the settings of an external etcd.
func (o *etcdOptions) complete() error {
	if o.servers == "" {
		for _, other := range []struct{ flag, value string }{
			{"--etcd-cafile", o.ca}, {"--etcd-certfile", o.cert}, {"--etcd-keyfile", o.key}, {"--etcd-prefix", o.prefix},
		} {
			if other.value != "" {
				return fmt.Errorf("%s is given without --etcd-servers; name the members of the etcd cluster, or leave it out", other.flag)
			}
		}
		return nil
	}
	external := &etcd.ExternalConfig{Timeout: etcdTimeout}
	for _, s := range strings.Split(o.servers, ",") {
		u, err := parseMember(strings.TrimSpace(s))
		if err != nil {
			return err
		}
		if len(external.Servers) > 0 && external.Servers[0].Scheme != u.Scheme {
			return fmt.Errorf("--etcd-servers has http and https URLs; give all members in one of them")
		}
		external.Servers = append(external.Servers, u)
	}
	if o.prefix != "" {
		if external.Prefix = strings.TrimRight(o.prefix, "/"); !strings.HasPrefix(external.Prefix, "/") {
			return fmt.Errorf("--etcd-prefix %q doesn't name a folder of keys; write it like /site-a", o.prefix)
		}
	}
	var err error
	external.TLS, err = o.tls(external.Servers[0].Scheme)
	o.external = external
	return err
}

func parseMember(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("--etcd-servers: %q is not the URL of a member; write it like https://192.0.2.1:2379", s)
	}
	if _, err := net.LookupPort("tcp", u.Port()); err != nil {
		return nil, fmt.Errorf("--etcd-servers: %q has no such port; write it like https://192.0.2.1:2379", s)
	}
	u.Path = ""
	return u, nil
}

// tls reads the files. The pair is read again for each connection, so that renewed
// certificates need no restart.
func (o *etcdOptions) tls(scheme string) (*tls.Config, error) {
	if scheme == "http" {
		if o.ca+o.cert+o.key != "" {
			return nil, fmt.Errorf("--etcd-servers has http URLs, where certificates have no use; write https://, or leave --etcd-cafile, --etcd-certfile and --etcd-keyfile out")
		}
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.ca != "" {
		raw, err := os.ReadFile(o.ca)
		if err != nil {
			return nil, fmt.Errorf("--etcd-cafile %s can't be read: %w; give the certificate of etcd's authority", o.ca, cause(err))
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("--etcd-cafile %s holds no certificate in PEM form; give the certificate of etcd's authority", o.ca)
		}
	}
	if (o.cert == "") != (o.key == "") {
		return nil, fmt.Errorf("--etcd-certfile and --etcd-keyfile belong together; give both or none")
	}
	if o.cert == "" {
		return config, nil
	}
	for _, f := range []struct{ flag, name string }{{"--etcd-certfile", o.cert}, {"--etcd-keyfile", o.key}} {
		if _, err := os.ReadFile(f.name); err != nil {
			return nil, fmt.Errorf("%s %s can't be read: %w; give the file that etcd's authority made for a client", f.flag, f.name, cause(err))
		}
	}
	if _, err := tls.LoadX509KeyPair(o.cert, o.key); err != nil {
		return nil, fmt.Errorf("--etcd-certfile %s and --etcd-keyfile %s don't fit together: %w; give a certificate and its own key, both PEM", o.cert, o.key, err)
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(o.cert, o.key)
		return &pair, err
	}
	return config, nil
}

// store is where objects are kept.
type store interface {
	etcd.Source
	Close()
}

// openStore opens the embedded store, or connects to the external one as a server of
// the cluster whose keys it has.
func openStore(ctx context.Context, o *options, log *slog.Logger) (store, error) {
	if o.etcd.external == nil {
		embedded, err := etcd.StartEmbedded(ctx, filepath.Join(o.dataDir, "etcd"), log)
		if err != nil {
			return nil, err // not a store that is nil inside
		}
		return embedded, nil
	}
	if _, err := os.Stat(filepath.Join(o.dataDir, "etcd", "member")); err == nil {
		return nil, fmt.Errorf("--data-dir %s has a store of its own, which --etcd-servers would leave aside; choose another data directory, or move %[1]s/etcd away", o.dataDir)
	}
	config := *o.etcd.external
	config.Logger = log
	external, err := etcd.OpenExternal(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := identify(ctx, external, filepath.Join(o.dataDir, "pki")); err != nil {
		external.Close()
		return nil, err
	}
	return external, nil
}

// identify proves that this server has the keys of the store's cluster: the authority
// by which its servers and users know each other, and the key of tokens.
func identify(ctx context.Context, external *etcd.External, pki string) error {
	authority, err := certs.Open(pki, time.Now)
	if err != nil {
		return err
	}
	key, err := certs.OpenSigningKey(pki)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encode the public key of tokens: %w", err)
	}
	client, err := external.Client()
	if err != nil {
		return err
	}
	if err := etcd.Stamp(ctx, client.Client); err != nil {
		return err
	}
	digest := sha256.Sum256(append(append([]byte{}, authority.PEM()...), public...))
	return etcd.Identify(ctx, client.Client, hex.EncodeToString(digest[:]))
}

package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
)

// reach returns once the cluster answers a linearizable read, for which it needs a
// leader, or says what stands in the way.
func (e *External) reach(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, e.config.Timeout)
	defer cancel()
	// A certificate that is refused won't get better by waiting.
	found := e.diagnose(limited)
	var refused *certificateError
	if errors.As(found, &refused) {
		return found
	}
	_, err := e.base.Get(limited, versionKey)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("connect to etcd: %w", context.Cause(ctx))
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("etcd at %s wants a user whom it lets read and write (%w); give --etcd-certfile of a user with that role, or switch its authentication off", e.hosts(), err)
	}
	again, cancelAgain := context.WithTimeout(ctx, dialTimeout)
	defer cancelAgain()
	if found = e.diagnose(again); found == nil {
		found = fmt.Errorf("its members answer but agree on no leader (%w); start a majority of them", err)
	}
	return fmt.Errorf("etcd at %s can't be used after %v: %w", e.hosts(), e.config.Timeout, found)
}

func (e *External) hosts() string {
	hosts := make([]string, len(e.config.Servers))
	for i, u := range e.config.Servers {
		hosts[i] = u.Host
	}
	return strings.Join(hosts, ",")
}

// certificateError says that one side refuses the other's certificate.
type certificateError struct{ text string }

func (e *certificateError) Error() string { return e.text }

// diagnose connects to the members by hand: gRPC hides why it can't. It returns nil if
// one of them can be had, a certificateError if one has a certificate in the way, else
// what the first said.
func (e *External) diagnose(ctx context.Context) error {
	var first error
	for _, u := range e.config.Servers {
		err := e.dial(ctx, u)
		var refused *certificateError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &refused):
			return err
		case first == nil:
			first = err
		}
	}
	return first
}

func (e *External) dial(ctx context.Context, u *url.URL) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return fmt.Errorf("%s: %w; check --etcd-servers, and that etcd runs there", u.Host, reason(err))
	}
	defer conn.Close()
	if e.config.TLS == nil {
		return nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return fmt.Errorf("%s: %w", u.Host, err)
		}
	}
	config := e.config.TLS.Clone()
	config.ServerName, config.NextProtos = u.Hostname(), []string{"h2"}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return explainTLS(u.Host, err)
	}
	// In TLS 1.3 a server says only after the handshake that it refuses the client's
	// certificate (RFC 8446, 4.4.2.4). Else it speaks first too (RFC 9113, 3.4).
	if _, err := secure.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		return explainTLS(u.Host, err)
	}
	return nil
}

// reason is the cause without the words of the layers above it.
func reason(err error) error {
	var errno unix.Errno
	var dns *net.DNSError
	switch {
	case errors.As(err, &errno):
		return errno
	case errors.As(err, &dns):
		return dns
	}
	return err
}

func explainTLS(host string, err error) error {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert *net.OpError
	switch {
	case errors.As(err, &authority):
		return &certificateError{fmt.Sprintf("etcd at %s has a certificate of an authority that isn't in --etcd-cafile; give the one that signed it", host)}
	case errors.As(err, &name):
		return &certificateError{fmt.Sprintf("etcd at %s has a certificate for other names (%v); use one of them in --etcd-servers", host, name)}
	case errors.As(err, &verify):
		return &certificateError{fmt.Sprintf("etcd at %s has a certificate that isn't valid: %v", host, verify.Err)}
	case errors.As(err, &record):
		return &certificateError{fmt.Sprintf("etcd at %s doesn't speak TLS; write http:// in --etcd-servers, or start it with certificates", host)}
	case errors.As(err, &alert) && alert.Op == "remote error":
		return &certificateError{fmt.Sprintf("etcd at %s refuses this client's certificate (%v); give --etcd-certfile and --etcd-keyfile of an authority that it trusts", host, alert.Err)}
	}
	return fmt.Errorf("%s: %w", host, reason(err))
}

const (
	// leastTxnOps is etcd's default, enough for a Service of some 120 addresses and ports.
	leastTxnOps = 128
	checkPause  = 5 * time.Second
)

// checkTxnOps asks each member that answers for its limit on the operations of one
// transaction, which holds an object and all its claims.
func (e *External) checkTxnOps(ctx context.Context) error {
	for _, u := range e.config.Servers {
		most, err := e.txnOps(ctx, u)
		switch {
		case err != nil:
			e.config.Logger.Warn("A member of etcd doesn't answer; its limits weren't checked", "member", u.Host, "error", err)
		case most < leastTxnOps:
			return fmt.Errorf("etcd at %s allows fewer than %d operations in a transaction, too few for a Service with its addresses and ports; start it with --max-txn-ops %d", u.Host, leastTxnOps, maxTxnOps)
		case most < maxTxnOps:
			e.config.Logger.Warn("A Service with more than some 120 addresses and ports will be refused; start etcd with a larger --max-txn-ops",
				"member", u.Host, "max-txn-ops", fmt.Sprintf("less than %d", maxTxnOps))
		}
	}
	return nil
}

// txnOps finds which of the limits that count here a member allows: etcd counts the
// comparisons too, so a transaction that does nothing tells.
func (e *External) txnOps(ctx context.Context, u *url.URL) (int, error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{u.String()}, TLS: e.config.TLS, Logger: e.base.GetLogger()})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, checkPause)
	defer cancel()
	for _, n := range []int{maxTxnOps, leastTxnOps} {
		same := make([]clientv3.Cmp, n)
		for i := range same {
			same[i] = clientv3.Compare(clientv3.CreateRevision(e.config.Prefix+versionKey), ">", -1)
		}
		_, err := c.Txn(ctx).If(same...).Commit()
		if !errors.Is(err, rpctypes.ErrTooManyOps) {
			return n, err
		}
	}
	return 0, nil
}

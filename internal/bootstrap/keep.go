package bootstrap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
)

const (
	// keeperLook is how often the keeper looks whether something is due. A timer set for
	// the day itself would not count the time that a host sleeps.
	keeperLook = 10 * time.Second
	// keeperRetry is longer: what was refused a moment ago will be again.
	keeperRetry = time.Minute
	// answerTimeout is how long a request may wait for a person to approve it.
	answerTimeout = 15 * time.Minute
)

// Keeper renews a joined node's certificates while it runs, when two thirds of their
// life are over, and gives its door one for the addresses it has (OPS-05, NET-04).
type Keeper struct {
	home  Home
	node  string
	kube  kubernetes.Interface
	clock clock.Clock
	log   *slog.Logger
	pool  *x509.CertPool

	changed chan struct{} // the addresses did

	mu      sync.Mutex // guards the following
	wanted  []netip.Addr
	serving *tls.Certificate // nil: there is none yet
}

// NewKeeper reads what the home holds.
func NewKeeper(home Home, node string, kube kubernetes.Interface, clk clock.Clock, log *slog.Logger) (*Keeper, error) {
	authority, err := home.Authority()
	if err != nil {
		return nil, err
	}
	cert, err := parseCertificate(authority)
	if err != nil {
		return nil, fmt.Errorf("the cluster's authority in %s: %w", home, err)
	}
	k := &Keeper{home: home, node: node, kube: kube, clock: clk, log: log, pool: x509.NewCertPool(), changed: make(chan struct{}, 1)}
	k.pool.AddCert(cert)
	k.serving, err = home.pair(servingFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("The certificate of this node's door can't be used; it asks for another", "error", err)
	}
	return k, nil
}

// Pool holds the cluster's authority.
func (k *Keeper) Pool() *x509.CertPool { return k.pool }

// Serve says which addresses the door is open at.
func (k *Keeper) Serve(addrs []netip.Addr) {
	k.mu.Lock()
	k.wanted = slices.Clone(addrs)
	k.mu.Unlock()
	select {
	case k.changed <- struct{}{}:
	default: // it is to look already
	}
}

// GetCertificate is for the door's tls.Config.
func (k *Keeper) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.serving == nil {
		return nil, errors.New("this node's door has no certificate yet")
	}
	return k.serving, nil
}

// Run works until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	var client sync.WaitGroup
	defer client.Wait()
	client.Go(func() { k.keepClient(ctx) })
	k.keepServing(ctx)
	return nil
}

func (k *Keeper) keepClient(ctx context.Context) {
	for ctx.Err() == nil {
		err := k.renewClient(ctx)
		if err != nil && ctx.Err() == nil {
			k.log.Warn("This node's certificate was not renewed; trying again", "error", err)
		}
		k.rest(ctx, err, nil)
	}
}

// rest waits until the next look, or until wake.
func (k *Keeper) rest(ctx context.Context, failed error, wake <-chan struct{}) {
	pause := keeperLook
	if failed != nil {
		pause = keeperRetry
	}
	timer := k.clock.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C():
	case <-wake:
	}
}

func (k *Keeper) renewClient(ctx context.Context) error {
	pair, err := k.home.pair(clientFile)
	if err == nil && !k.due(pair.Leaf) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	raw, err := RequestClient(ctx, k.kube, k.node)
	if err != nil {
		return err
	}
	if err := k.home.write(clientFile, raw); err != nil {
		return err
	}
	k.log.Info("This node has a new certificate")
	return nil
}

func (k *Keeper) keepServing(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-k.changed: // it looks now
		default:
		}
		asking, cancel := context.WithTimeout(ctx, answerTimeout)
		done := make(chan error, 1)
		go func() { done <- k.renewServing(asking) }()
		var err error
		select {
		case err = <-done:
		case <-k.changed: // what is asked for is of no use any more
			cancel()
			<-done
			continue
		}
		cancel()
		if err != nil && ctx.Err() == nil {
			k.log.Warn("This node's door has no certificate for its addresses; trying again", "error", err)
		}
		k.rest(ctx, err, k.changed)
	}
}

func (k *Keeper) renewServing(ctx context.Context) error {
	k.mu.Lock()
	wanted, serving := k.wanted, k.serving
	k.mu.Unlock()
	if len(wanted) == 0 || serving != nil && !k.due(serving.Leaf) && covers(serving.Leaf, wanted) {
		return nil
	}
	raw, err := RequestServing(ctx, k.kube, k.node, wanted)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(raw, raw)
	if err != nil {
		return fmt.Errorf("use the certificate of this node's door: %w", err)
	}
	if err := k.home.write(servingFile, raw); err != nil {
		return err
	}
	k.mu.Lock()
	k.serving = &pair
	k.mu.Unlock()
	k.log.Info("This node's door has a new certificate", "addresses", wanted)
	return nil
}

// due counts from a certificate's begin, which lies before its issue: that is early by
// less than a hundredth of a year-long life.
func (k *Keeper) due(cert *x509.Certificate) bool {
	life := cert.NotAfter.Sub(cert.NotBefore)
	return !k.clock.Now().Before(cert.NotBefore.Add(life * 2 / 3))
}

func covers(cert *x509.Certificate, addrs []netip.Addr) bool {
	return !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return cert.VerifyHostname(a.String()) != nil })
}

// pair reads a certificate with its key.
func (h Home) pair(name string) (*tls.Certificate, error) {
	raw, err := os.ReadFile(h.file(name))
	if err != nil {
		return nil, fmt.Errorf("read this node's certificate: %w", err)
	}
	pair, err := tls.X509KeyPair(raw, raw)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged (%w); remove the folder and join again with a new token", h.file(name), err)
	}
	return &pair, nil
}

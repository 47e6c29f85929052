package cli

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/durable"
)

const (
	contextName = "portico"
	// adminUser and adminGroup are who the kubeconfig in the data directory is.
	adminUser, adminGroup = "portico-admin", "system:masters"
)

// adminFile is DIR/kubeconfig, the administrator's.
type adminFile struct {
	file, server string
	authority    []byte // its certificate
	leaf         *certs.Leaf
}

// newAdminFile writes the file.
func newAdminFile(dir, server string, authority *certs.Authority) (*adminFile, error) {
	leaf, err := authority.ClientLeaf(adminUser, adminGroup)
	if err != nil {
		return nil, err
	}
	a := &adminFile{filepath.Join(dir, kubeconfigFile), server, authority.PEM(), leaf}
	return a, a.write()
}

// write writes it whole or not at all, with the present certificate.
func (a *adminFile) write() error {
	config := clientcmdapi.NewConfig()
	cert, key := a.leaf.PEM()
	config.Clusters[contextName] = &clientcmdapi.Cluster{Server: a.server, CertificateAuthorityData: a.authority}
	config.AuthInfos[contextName] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts[contextName] = &clientcmdapi.Context{Cluster: contextName, AuthInfo: contextName}
	config.CurrentContext = contextName
	raw, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("encode the kubeconfig: %w", err)
	}
	return durable.WriteFile(a.file, raw)
}

// adminLook is how often keep looks whether a renewal is due. A timer set for the day
// itself would not count the time that a host sleeps.
const adminLook = time.Hour

// keep writes the file anew when its certificate is renewed, until ctx ends (OPS-05).
func (a *adminFile) keep(ctx context.Context, clk clock.WithTicker, log *slog.Logger) error {
	ticker := clk.NewTicker(adminLook)
	defer ticker.Stop()
	written, _ := a.leaf.PEM()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
		now, _ := a.leaf.PEM()
		if bytes.Equal(now, written) {
			continue
		}
		if err := a.write(); err != nil { // a full disk, say; it is tried again
			log.Warn("The administrator's kubeconfig was not renewed; trying again", "error", err)
			continue
		}
		written = now
		log.Info("The administrator's kubeconfig has a new certificate", "file", a.file)
	}
}

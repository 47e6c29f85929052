package cli

import (
	"fmt"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"portico.dev/portico/internal/apiserver/certs"
)

const (
	contextName = "portico"
	// adminUser and adminGroup are who the kubeconfig in the data directory is.
	adminUser, adminGroup = "portico-admin", "system:masters"
)

// writeKubeconfig writes DIR/kubeconfig for the administrator, whole or not at all.
func writeKubeconfig(dir, server string, authority *certs.Authority) (string, error) {
	cert, key, err := authority.Client(adminUser, adminGroup)
	if err != nil {
		return "", err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters[contextName] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: authority.PEM()}
	config.AuthInfos[contextName] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts[contextName] = &clientcmdapi.Context{Cluster: contextName, AuthInfo: contextName}
	config.CurrentContext = contextName
	raw, err := clientcmd.Write(*config)
	if err != nil {
		return "", fmt.Errorf("encode the kubeconfig: %w", err)
	}
	file := filepath.Join(dir, kubeconfigFile)
	return file, replaceFile(file, raw)
}

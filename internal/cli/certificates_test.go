package cli

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	testclock "k8s.io/utils/clock/testing"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/apiserver/certs"
)

// OPS-05: the administrator's kubeconfig gets a new certificate while `portico up` runs.
func TestAdminFileIsKept(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	clk := testclock.NewFakeClock(begin)
	dir := t.TempDir()
	authority, err := certs.Open(dir+"/pki", clk.Now)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := newAdminFile(dir, "https://127.0.0.1:6443", authority)
	if err != nil {
		t.Fatal(err)
	}
	ends := func() time.Time {
		t.Helper()
		config, err := clientcmd.LoadFromFile(admin.file)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(config.AuthInfos[contextName].ClientCertificateData)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return cert.NotAfter
	}
	first := ends()
	ctx, cancel := context.WithCancel(t.Context())
	var kept sync.WaitGroup
	kept.Go(func() {
		if err := admin.keep(ctx, clk, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	})
	defer kept.Wait()
	defer cancel()
	apitest.Eventually(t, "a new certificate well before the end of the first", func() error {
		if clk.HasWaiters() && clk.Now().Before(first.Add(-100*24*time.Hour)) {
			clk.Step(24 * time.Hour)
		}
		if !ends().After(first) {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
	if info, err := os.Stat(admin.file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}

// OPS-05: the end of the authority is told a year before.
func TestAuthorityEnding(t *testing.T) {
	t.Parallel()
	end := time.Date(2036, 6, 1, 0, 0, 0, 0, time.UTC)
	if text := authorityEnding("/data", end, end.Add(-2*endingSoon)); text != "" {
		t.Error(text)
	}
	text := authorityEnding("/data", end, end.Add(-endingSoon))
	for _, want := range []string{"ends on 2036-06-01", "remove ca.crt and ca.key in /data/pki", "portico user create"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q has no %q", text, want)
		}
	}
}

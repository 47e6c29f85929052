package joining_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/bootstrap"
	"portico.dev/portico/internal/controllers/joining"
	"portico.dev/portico/internal/controllers/system"
)

// The settings are what the server was started with, whatever somebody writes, and tokens
// go when their time is over.
func TestSettingsAndTokens(t *testing.T) {
	s := apitest.Start(t)
	if err := system.Bootstrap(t.Context(), s.Kube, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}); err != nil {
		t.Fatal(err)
	}
	secrets := s.Kube.CoreV1().Secrets("kube-system")
	clk := testclock.NewFakeClock(time.Now())
	names := map[string]string{}
	for what, end := range map[string]time.Time{"short": clk.Now().Add(time.Hour), "long": clk.Now().Add(24 * time.Hour), "endless": {}} {
		made, err := secrets.Create(t.Context(), bootstrap.NewToken().Object(end, what), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		names[what] = made.Name
	}
	settings := bootstrap.Settings{ServiceCIDR: "10.96.0.0/12", ClusterCIDR: "10.244.0.0/16", GuestCIDR: "10.245.0.0/16", ClusterDomain: "example.test"}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- joining.Run(ctx, joining.Deps{Client: s.Kube, Clock: clk, Log: slog.New(slog.DiscardHandler), Settings: settings})
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	right := func() {
		t.Helper()
		apitest.Eventually(t, "the settings are right", func() error {
			clk.Step(time.Minute)
			got, err := bootstrap.ReadSettings(ctx, s.Kube)
			if err == nil && got != settings {
				err = fmt.Errorf("they are %+v", got)
			}
			return err
		})
	}
	right()
	m, err := s.Kube.CoreV1().ConfigMaps("kube-system").Get(ctx, bootstrap.SettingsName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Data["cluster-domain"] = "evil.test"
	if _, err := s.Kube.CoreV1().ConfigMaps("kube-system").Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	right()
	clk.Step(time.Hour)
	apitest.Eventually(t, "the short token is gone", func() error {
		clk.Step(time.Second)
		if _, err := secrets.Get(ctx, names["short"], metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	for _, what := range []string{"long", "endless"} {
		if _, err := secrets.Get(ctx, names[what], metav1.GetOptions{}); err != nil {
			t.Errorf("the %s token: %v", what, err)
		}
	}
}

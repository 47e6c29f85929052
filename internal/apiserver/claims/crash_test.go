package claims_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/apiserver/etcd"
)

// serverDir makes this test binary a server on the folder it names.
const serverDir = "PORTICO_TEST_SERVER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverDir); dir != "" {
		if err := serve(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serve runs until it is killed; the file `address` says where it listens.
func serve(dir string) error {
	ctx := context.Background()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	store, err := etcd.StartEmbedded(ctx, filepath.Join(dir, "etcd"), logger)
	if err != nil {
		return err
	}
	config, err := apitest.Config(store, dir, logger)
	if err != nil {
		return err
	}
	smallish(&config)
	server, err := apiserver.New(ctx, config)
	if err != nil {
		return err
	}
	address := filepath.Join(dir, "address")
	if err := os.WriteFile(address+".new", []byte(config.Listener.Addr().String()), 0o600); err != nil {
		return err
	}
	if err := os.Rename(address+".new", address); err != nil {
		return err
	}
	return server.Run(ctx)
}

// process is a server that can be killed.
type process struct {
	cmd  *exec.Cmd
	kube clientset.Interface
}

func startProcess(t *testing.T, dir string) *process {
	t.Helper()
	address := filepath.Join(dir, "address")
	if err := os.Remove(address); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(program)}
	p.cmd.Env = append(os.Environ(), serverDir+"="+dir)
	p.cmd.Stderr = t.Output()
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	var host []byte
	apitest.Eventually(t, "the server's address", func() error {
		host, err = os.ReadFile(address)
		return err
	})
	authority, err := certs.Open(filepath.Join(dir, "pki"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := authority.Client("test", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	p.kube, err = clientset.NewForConfig(&rest.Config{
		Host: "https://" + string(host), QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: authority.PEM(), CertData: cert, KeyData: key},
	})
	if err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the server's readiness", func() error {
		return p.kube.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(context.Background()).Error()
	})
	return p
}

func (p *process) kill() {
	if p.cmd.Process != nil && p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill() // it may have ended itself, which the test then meets
		_ = p.cmd.Wait()         // "signal: killed"
	}
}

// ALLOC-03: a server that is killed at any moment leaves claims and objects that agree,
// and every write that it acknowledged. Lanes run beside each other, each on a store of
// its own, as starting takes the most time.
func TestKilledServerLeavesNoHalf(t *testing.T) {
	t.Parallel()
	const lanes = 4
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := range lanes {
		t.Run(fmt.Sprintf("lane %d", n), func(t *testing.T) {
			t.Parallel()
			l := &lane{dir: t.TempDir(), seed: seed + uint64(n), random: rand.New(rand.NewPCG(seed, uint64(n)))}
			for round := range rounds(20, 200) / lanes {
				l.round(t, round)
				if t.Failed() {
					return
				}
			}
		})
	}
}

// lane is one store, on which a server is killed again and again.
type lane struct {
	dir    string
	seed   uint64
	random *rand.Rand
}

// clientsPerLane write at the same time.
const clientsPerLane = 4

func (l *lane) round(t *testing.T, round int) {
	p := startProcess(t, l.dir)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := p.kube.CoreV1().Namespaces().Create(context.Background(), namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var writes [clientsPerLane]confirmed
	began := make(chan struct{}, clientsPerLane)
	for i := range writes {
		a := &actor{kube: p.kube, rand: rand.New(rand.NewPCG(l.seed, uint64(100*round+i+1))), done: map[string]int{}}
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				a.act(ctx)
				writes[i].write(ctx, p.kube, fmt.Sprintf("own-%d-%d-%d", round, i, n))
				if n == 0 {
					began <- struct{}{}
				}
			}
		})
	}
	for range clientsPerLane {
		<-began
	}
	time.Sleep(time.Duration(l.random.IntN(150)) * time.Millisecond) // the moment of the crash, not a wait
	p.kill()
	stop()
	wg.Wait()
	store, err := etcd.StartEmbedded(context.Background(), filepath.Join(l.dir, "etcd"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	client, err := store.Client()
	if err != nil {
		t.Fatal(err)
	}
	is := read(t, client)
	is.check(t)
	for i := range writes {
		writes[i].check(t, is)
	}
}

// confirmed are the last writes of one client that were acknowledged.
type confirmed struct {
	here, gone string // Services that must, and mustn't, be there
}

// write makes a Service and deletes the one before. Nobody else knows their names, and
// they are headless, so that ranges don't run full.
func (c *confirmed) write(ctx context.Context, kube clientset.Interface, name string) {
	if _, err := create(kube, clusterIP(name, corev1.ClusterIPNone)); err != nil {
		return
	}
	old := c.here
	c.here = name
	if old != "" && kube.CoreV1().Services("default").Delete(ctx, old, metav1.DeleteOptions{}) == nil {
		c.gone = old
	}
}

func (c *confirmed) check(t *testing.T, is state) {
	t.Helper()
	if c.here == "" {
		t.Error("a client got nothing done before the crash")
	} else if is.services["default/"+c.here] == nil {
		t.Errorf("the Service %s was acknowledged and is lost", c.here)
	}
	if c.gone != "" && is.services["default/"+c.gone] != nil {
		t.Errorf("the deletion of Service %s was acknowledged and is lost", c.gone)
	}
}

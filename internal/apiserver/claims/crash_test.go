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
	eventually(t, "the server's address", func() error {
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
	eventually(t, "the server's readiness", func() error {
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

// ALLOC-03: a server that is killed at any moment leaves claims and Services that
// agree, and every write that it acknowledged.
func TestKilledServerLeavesNoHalf(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range rounds(3, 40) {
		p := startProcess(t, dir)
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		if _, err := p.kube.CoreV1().Namespaces().Create(context.Background(), namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		acked := make([]string, 4) // the last Service that each of them had confirmed
		for i := range acked {
			own := rand.New(rand.NewPCG(seed, uint64(100*round+i+1)))
			a := &actor{kube: p.kube, rand: own, done: map[string]int{}}
			wg.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					a.act(ctx)
					// Named by round, so that nobody deletes it, and headless, so that
					// ranges don't run full.
					name := fmt.Sprintf("acked-%d-%d-%d", round, i, n)
					if _, err := create(p.kube, clusterIP(name, corev1.ClusterIPNone)); err == nil {
						acked[i] = name
					}
				}
			})
		}
		time.Sleep(200*time.Millisecond + time.Duration(random.IntN(400))*time.Millisecond) // the moment of the crash, not a wait
		p.kill()
		stop()
		wg.Wait()
		r := &rig{txns: &txns{}}
		r.Server = apitest.StartIn(t, dir, smallish)
		var err error
		if r.direct, err = r.Store.Client(); err != nil {
			t.Fatal(err)
		}
		r.check(t)
		for _, name := range acked {
			if name == "" {
				t.Errorf("round %d: a client got nothing done before the crash", round)
			} else if _, err := r.Kube.CoreV1().Services("default").Get(context.Background(), name, metav1.GetOptions{}); err != nil {
				t.Errorf("round %d: an acknowledged write is lost: %v", round, err)
			}
		}
		t.Logf("round %d: %d claims, last acknowledged %v", round, len(r.stored(t)), acked)
		r.Stop()
	}
}

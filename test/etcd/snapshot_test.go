package etcd

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// OPS-05: a snapshot under load, restored elsewhere, is what was there.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	dir, files := filepath.Join(t.TempDir(), "data"), t.TempDir()
	s := startServer(t, dir)
	quiet := filepath.Join(files, "quiet")
	token := tokenOf(t, s)
	var before []corev1.Service
	w := during(t, "load", func(w *writer) {
		file := filepath.Join(files, "busy")
		done := len(w.names())
		save(t, dir, file)
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file: %v %v", info, err)
		}
		w.goesOn(t)
		// What was acknowledged before the snapshot began is in it.
		checkRestored(t, file, func(r *server) {
			have := text(t, listServices(t, r.kube))
			for _, name := range w.names()[:done] {
				if have["default/"+name] == "" {
					t.Errorf("%s was acknowledged before the snapshot and isn't in it", name)
				}
			}
		})
	}, s)
	w.check(t, s.kube)
	// Controllers may still write to what was created.
	eventually(t, 30*time.Second, "all is quiet during a snapshot", func() bool {
		before = listServices(t, s.kube)
		save(t, dir, quiet)
		return maps.Equal(text(t, before), text(t, listServices(t, s.kube)))
	})
	revision := latest(t, s.kube)
	s.stop(t)

	checkRestored(t, quiet, func(r *server) {
		after := listServices(t, r.kube)
		want, got := text(t, before), text(t, after)
		if len(want) != len(got) {
			t.Errorf("there were %d Services and are %d", len(want), len(got))
		}
		for name := range want {
			if want[name] != got[name] {
				t.Errorf("Service %s was\n%s\nand is\n%s", name, want[name], got[name])
			}
		}
		// Claims: the next Service gets none that another has, and the taken are refused.
		svc, err := create(t.Context(), r.kube, "after")
		if err != nil {
			t.Fatal(err)
		}
		taken := before[len(before)-1].Spec.ClusterIP
		again := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "again"}, Spec: corev1.ServiceSpec{ClusterIP: taken, Ports: []corev1.ServicePort{{Port: 80}}}}
		if _, err := r.kube.CoreV1().Services("default").Create(t.Context(), again, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
			t.Errorf("%s is another's, and was given: %v", taken, err)
		}
		for _, old := range before {
			if old.Spec.ClusterIP == svc.Spec.ClusterIP {
				t.Errorf("%s was given twice", old.Spec.ClusterIP)
			}
		}
		// Those who knew the cluster know it still.
		config := rest.AnonymousClientConfig(r.config)
		config.BearerToken = token
		kube, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kube.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}); err != nil {
			t.Errorf("a token of before: %v", err)
		}
		expired(t, r.kube, revision)
	})

	// Without a server, from the folder.
	save(t, dir, filepath.Join(files, "offline"))
	if out, code := portico(t, "snapshot", "restore", quiet, "--data-dir", dir); code != 1 || !strings.Contains(out, "holds a store already; choose an empty --data-dir") {
		t.Errorf("a restore over a store: %d %s", code, out)
	}
	cut := filepath.Join(files, "cut")
	raw, err := os.ReadFile(quiet)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cut, raw[:len(raw)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	fresh := filepath.Join(files, "fresh")
	if out, code := portico(t, "snapshot", "restore", cut, "--data-dir", fresh); code != 1 || !strings.Contains(out, "it is not a whole snapshot: it ends within etcd.db; nothing was changed") {
		t.Errorf("a restore of half a file: %d %s", code, out)
	}
	if _, err := os.Stat(fresh); err == nil {
		t.Error("a refused restore left a folder")
	}
}

func (w *writer) names() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string{}, w.acked...)
}

func save(t *testing.T, dir, file string) {
	t.Helper()
	if out, code := portico(t, "snapshot", "save", file, "--data-dir", dir); code != 0 || !strings.Contains(out, " holds revision ") {
		t.Fatalf("snapshot save: %d %s", code, out)
	}
}

// checkRestored starts a server on what a snapshot holds.
func checkRestored(t *testing.T, file string, check func(*server)) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "restored")
	if out, code := portico(t, "snapshot", "restore", file, "--data-dir", dir); code != 0 {
		t.Fatalf("snapshot restore: %d %s", code, out)
	}
	r := startServer(t, dir)
	check(r)
	r.stop(t)
}

func tokenOf(t *testing.T, s *server) string {
	t.Helper()
	ctx := t.Context()
	if _, err := s.kube.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := s.kube.CoreV1().ServiceAccounts("default").CreateToken(ctx, "robot", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

func latest(t *testing.T, kube kubernetes.Interface) string {
	t.Helper()
	list, err := kube.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.ResourceVersion
}

// expired sees that a watch that would go on from before the restore is told to begin
// anew, and that versions go up.
func expired(t *testing.T, kube kubernetes.Interface, revision string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	w, err := kube.CoreV1().Services("default").Watch(ctx, metav1.ListOptions{ResourceVersion: revision})
	if err == nil {
		defer w.Stop()
		event, ok := <-w.ResultChan()
		if !ok || event.Type != watch.Error {
			t.Fatalf("a watch of before the restore gives %v", event)
		}
		err = apierrors.FromObject(event.Object)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("a watch of before the restore: %v", err)
	}
	if now := latest(t, kube); len(now) <= len(revision) {
		t.Errorf("the version was %s and is %s", revision, now)
	}
}

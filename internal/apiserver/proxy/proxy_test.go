package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver/apitest"
)

func TestProxy(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]func(*testing.T, *world){
		"service-proxy":             testServiceProxy,
		"service-proxy-chooses":     testServiceProxyChooses,
		"proxy-guards":              testProxyGuards,
		"pod-proxy":                 testPodProxy,
		"proxy-rewrites":            testProxyRewrites,
		"proxy-streams":             testProxyStreams,
		"proxy-upgrades":            testProxyUpgrades,
		"proxy-needs-its-own-right": testProxyNeedsItsOwnRight,
	} {
		t.Run(name, func(t *testing.T) { test(t, w.in(t, name)) })
	}
}

// API-14: a request goes to a ready endpoint of the Service, whole, and its answer comes
// back, by the port's number or name, over TLS too, for every method.
func testServiceProxy(t *testing.T, w *world) {
	pod := w.pod(t, "web", first, v6)
	plain := backend(t, first, told("plain"), nil)
	secret := backend(t, first, told("secret"), w.Authority)
	w.service(t, "web")
	w.slice(t, "web", "web-4", plain, secret, of(pod, first))
	for _, tc := range []struct{ method, path, body, want string }{
		{"GET", "web:80/proxy/", "", "plain: GET / "},
		{"GET", "web:http/proxy/a/b?x=1&y=a%2Fb", "", "plain: GET /a/b?x=1&y=a%2Fb "},
		{"GET", "web:http/proxy/a/", "", "plain: GET /a/ "},
		{"GET", "http:web:80/proxy/a", "", "plain: GET /a "},
		{"GET", "https:web:443/proxy/a", "", "secret: GET /a "},
		{"GET", "https:web:tls/proxy/a", "", "secret: GET /a "},
		{"POST", "web:80/proxy/form?x=y", "hello", "plain: POST /form?x=y hello"},
		{"PUT", "web:80/proxy/a", "hello", "plain: PUT /a hello"},
		{"PATCH", "web:80/proxy/a", "hello", "plain: PATCH /a hello"},
		{"DELETE", "web:80/proxy/a", "", "plain: DELETE /a "},
		{"OPTIONS", "web:80/proxy/a", "", "plain: OPTIONS /a "},
	} {
		if a := w.ask(t, tc.method, w.services()+tc.path, tc.body); a.code != 200 || a.body != tc.want {
			t.Errorf("%s %s: %d %q, want %q", tc.method, tc.path, a.code, a.body, tc.want)
		} else if a.header.Get("X-Authorization") != "" {
			t.Errorf("%s %s: the backend was told who asks", tc.method, tc.path)
		}
	}
	if a := w.ask(t, "HEAD", w.services()+"web:80/proxy/a", ""); a.code != 200 {
		t.Errorf("HEAD: %d", a.code)
	}
	// Larger than any object may be.
	long := strings.Repeat("x", 5<<20)
	if a := w.ask(t, "POST", w.services()+"web:80/proxy/", long); a.code != 200 || len(a.body) < len(long) {
		t.Errorf("5 MB: %d, %d bytes back", a.code, len(a.body))
	}
	if a := w.ask(t, "GET", w.services()+"web:80/proxy", ""); a.code != 301 || a.header.Get("Location") != w.services()+"web:80/proxy/" {
		t.Errorf("without a slash: %d %q", a.code, a.header.Get("Location"))
	}
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"none:80/proxy/":    {404, `services \"none\" not found`},
		"web:81/proxy/":     {503, `no service port 81 found for service \"web\"`},
		"web:other/proxy/":  {503, `no endpoints available for service \"web\"`},
		"ftp:web:80/proxy/": {400, `invalid service request \"ftp:web:80\"`},
	} {
		if a := w.ask(t, "GET", w.services()+path, ""); a.code != want.code || !strings.Contains(a.body, want.text) {
			t.Errorf("%s: %d %s, want %d %s", path, a.code, a.body, want.code, want.text)
		}
	}
}

// API-14: the endpoint is a ready one, of the primary family, or none is.
func testServiceProxyChooses(t *testing.T, w *world) {
	a, b := w.pod(t, "a", first), w.pod(t, "b", second, v6)
	port := backend(t, second, told("four"), nil)
	w.service(t, "web")
	notReady := of(a, first)
	notReady.Conditions.Ready = new(false)
	w.slice(t, "web", "web-1", port, port, notReady)
	none := func(what string) {
		t.Helper()
		if got := w.ask(t, "GET", w.services()+"web:80/proxy/", ""); got.code != 503 || !strings.Contains(got.body, `no endpoints available for service \"web\"`) {
			t.Errorf("%s: %d %s", what, got.code, got.body)
		}
	}
	none("an endpoint that isn't ready")
	six := backend(t, v6, told("six"), nil)
	w.slice(t, "web", "web-6", six, six, of(b, v6))
	if got := w.ask(t, "GET", w.services()+"web:80/proxy/", ""); got.body != "six: GET / " {
		t.Errorf("only IPv6 is ready: %d %s", got.code, got.body)
	}
	w.slice(t, "web", "web-2", port, port, of(b, second))
	for range 8 {
		if got := w.ask(t, "GET", w.services()+"web:80/proxy/", ""); got.body != "four: GET / " {
			t.Errorf("of the primary family: %d %s", got.code, got.body)
		}
	}
}

// API-14: nobody is led to what only a slice names, nor to the server's own host. The
// backends listen, so that a guard which fails is seen.
func testProxyGuards(t *testing.T, w *world) {
	loopback := netip.MustParseAddr("127.0.0.1")
	own := backend(t, loopback, told("loopback"), nil)
	good := backend(t, first, told("good"), nil)
	pod := w.pod(t, "web", first)
	local := w.pod(t, "local", loopback)
	metadata := w.pod(t, "metadata", netip.MustParseAddr("169.254.169.254"))
	byHand := of(pod, first)
	byHand.TargetRef = nil
	elsewhere := of(pod, first)
	elsewhere.TargetRef.Namespace = "kube-system"
	for name, tc := range map[string]struct {
		port     uint16
		endpoint discoveryv1.Endpoint
	}{
		"byhand": {good, byHand}, "elsewhere": {good, elsewhere}, "stranger": {good, of(local, first)}, "other": {good, of(pod, second)},
	} {
		w.service(t, name)
		w.slice(t, name, name, tc.port, tc.port, tc.endpoint)
		if a := w.ask(t, "GET", w.services()+name+":80/proxy/", ""); a.code != 503 || !strings.Contains(a.body, "no endpoints available for service") {
			t.Errorf("%s: %d %s", name, a.code, a.body)
		}
	}
	for _, path := range []string{fmt.Sprintf("%s:%d/proxy/", local.Name, own), metadata.Name + ":80/proxy/latest/meta-data/"} {
		if a := w.ask(t, "GET", w.pods()+path, ""); a.code != 400 || !strings.Contains(a.body, "address not allowed") {
			t.Errorf("%s: %d %s", path, a.code, a.body)
		}
	}
}

// API-14: pods, by the number of any port, the name of a container port, or the first.
func testPodProxy(t *testing.T, w *world) {
	port := backend(t, first, told("web"), nil)
	secret := backend(t, first, told("secret"), w.Authority)
	w.pod(t, "web", first)
	for path, want := range map[string]string{
		fmt.Sprintf("web:%d/proxy/a?b=c", port):    "web: GET /a?b=c ",
		fmt.Sprintf("https:web:%d/proxy", secret):  "", // redirected
		fmt.Sprintf("https:web:%d/proxy/", secret): "secret: GET / ",
	} {
		if a := w.ask(t, "GET", w.pods()+path, ""); a.code != 200 && want != "" || a.body != want {
			t.Errorf("%s: %d %q", path, a.code, a.body)
		}
	}
	for _, path := range []string{"web/proxy/", "web:first/proxy/"} { // port 8080, where nobody listens
		if a := w.ask(t, "GET", w.pods()+path, ""); a.code != 503 || !strings.Contains(a.body, "error trying to reach service") || !strings.Contains(a.body, ":8080") {
			t.Errorf("%s: %d %s", path, a.code, a.body)
		}
	}
	if a := w.ask(t, "GET", w.pods()+"web:none/proxy/", ""); a.code != 400 || !strings.Contains(a.body, "none") {
		t.Errorf("a name that isn't there: %d %s", a.code, a.body)
	}
	if a := w.ask(t, "GET", w.pods()+"nobody:80/proxy/", ""); a.code != 404 {
		t.Errorf("no such pod: %d %s", a.code, a.body)
	}
}

// API-14: redirects and links lead through the API again.
func testProxyRewrites(t *testing.T, w *world) {
	port := backend(t, first, http.HandlerFunc(func(out http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/old":
			http.Redirect(out, req, "/new", http.StatusFound)
		case "/away":
			http.Redirect(out, req, "https://example.com/x", http.StatusFound)
		default:
			out.Header().Set("Content-Type", "text/html; charset=utf-8")
			io.WriteString(out, `<a href="/up">up</a><a href="beside">beside</a><a href="https://example.com/">away</a>`)
		}
	}), nil)
	w.pod(t, "web", first)
	at := fmt.Sprintf("%sweb:%d/proxy", w.pods(), port)
	if a := w.ask(t, "GET", at+"/old", ""); a.code != 302 || !strings.HasSuffix(a.header.Get("Location"), at+"/new") {
		t.Errorf("a redirect: %d %q", a.code, a.header.Get("Location"))
	}
	if a := w.ask(t, "GET", at+"/away", ""); a.code != 302 || a.header.Get("Location") != "https://example.com/x" {
		t.Errorf("a redirect to elsewhere: %d %q", a.code, a.header.Get("Location"))
	}
	a := w.ask(t, "GET", at+"/dir/page", "")
	for _, want := range []string{at + `/up"`, `href="beside"`, `href="https://example.com/"`} {
		if !strings.Contains(a.body, want) {
			t.Errorf("a page: %s\nhas no %s", a.body, want)
		}
	}
}

// API-14: what a backend sends arrives before its answer ends.
func testProxyStreams(t *testing.T, w *world) {
	more := make(chan struct{})
	port := backend(t, first, http.HandlerFunc(func(out http.ResponseWriter, req *http.Request) {
		for i := range 3 {
			fmt.Fprintf(out, "line %d\n", i)
			out.(http.Flusher).Flush()
			select {
			case <-more:
			case <-req.Context().Done():
				return
			}
		}
	}), nil)
	w.pod(t, "web", first)
	res, err := w.client.Do(w.request(t.Context(), t, "GET", fmt.Sprintf("%sweb:%d/proxy/", w.pods(), port), ""))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	for i := range 3 {
		got, err := lines.ReadString('\n')
		if err != nil || got != fmt.Sprintf("line %d\n", i) {
			t.Fatalf("line %d: %q, %v", i, got, err)
		}
		more <- struct{}{} // the backend waits until its line was read
	}
}

// API-14: a websocket passes through, both ways.
func testProxyUpgrades(t *testing.T, w *world) {
	echo := http.HandlerFunc(func(out http.ResponseWriter, req *http.Request) {
		c, err := (&websocket.Upgrader{}).Upgrade(out, req, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, msg, err := c.ReadMessage()
			if err != nil || c.WriteMessage(kind, append([]byte("echo "), msg...)) != nil {
				return
			}
		}
	})
	pod := w.pod(t, "web", first)
	plain, secret := backend(t, first, echo, nil), backend(t, first, echo, w.Authority)
	w.service(t, "web")
	w.slice(t, "web", "web", plain, secret, of(pod, first))
	dialer := websocket.Dialer{TLSClientConfig: w.config}
	for _, path := range []string{"web:80/proxy/chat", "https:web:tls/proxy/chat"} {
		header := w.request(t.Context(), t, "GET", "/", "").Header
		c, res, err := dialer.Dial("wss"+strings.TrimPrefix(w.Config.Host, "https")+w.services()+path, header)
		if err != nil {
			t.Fatalf("%s: %v %v", path, err, res)
		}
		for _, word := range []string{"one", "two"} {
			if err := c.WriteMessage(websocket.TextMessage, []byte(word)); err != nil {
				t.Fatal(err)
			}
			if _, msg, err := c.ReadMessage(); err != nil || string(msg) != "echo "+word {
				t.Errorf("%s: %q, %v", path, msg, err)
			}
		}
		c.Close()
	}
}

// API-14: whoever has no role for services/proxy is refused, and one for Services isn't it.
func testProxyNeedsItsOwnRight(t *testing.T, w *world) {
	pod := w.pod(t, "web", first)
	port := backend(t, first, told("web"), nil)
	w.service(t, "web")
	w.slice(t, "web", "web", port, port, of(pod, first))
	cert, key, err := w.Authority.Client("jane")
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(w.Config)
	config.CertData, config.KeyData = cert, key
	jane, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		return jane.CoreV1().RESTClient().Get().AbsPath(w.services() + "web:80/proxy/").Do(t.Context()).Error()
	}
	bind := func(role string) {
		t.Helper()
		_, err := w.Kube.RbacV1().RoleBindings(w.namespace).Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "jane"}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	bind("view")
	list := func() error {
		_, err := jane.CoreV1().Services(w.namespace).List(t.Context(), metav1.ListOptions{})
		return err
	}
	apitest.Eventually(t, "view counts", list)
	if err := ask(); err == nil || !strings.Contains(err.Error(), `cannot get resource "services/proxy"`) {
		t.Errorf("with view: %v", err)
	}
	bind("edit")
	apitest.Eventually(t, "edit counts", ask)
}

package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// API-10: what `kubectl get` prints comes from the server.
func TestTables(t *testing.T) {
	t.Parallel()
	s := start(t)
	ask(t, s, "POST", "/api/v1/namespaces/default/services", `{"metadata":{"name":"web"},"spec":{"type":"NodePort","clusterIP":"10.96.0.20","selector":{"a":"b"},"ports":[{"port":80,"nodePort":30000}]}}`).want(t, 201)
	ask(t, s, "POST", "/api/v1/namespaces/default/services", `{"metadata":{"name":"lb"},"spec":{"type":"LoadBalancer","clusterIP":"10.96.0.21","ports":[{"port":53,"protocol":"UDP","nodePort":30001}]}}`).want(t, 201)
	ask(t, s, "POST", "/api/v1/nodes", `{"metadata":{"name":"node-a","labels":{"node-role.kubernetes.io/edge":""}},"status":{"conditions":[{"type":"Ready","status":"True"}]}}`).want(t, 201)
	ask(t, s, "POST", vmsPath, vm("guest", "", halted)).want(t, 201)
	ask(t, s, "POST", "/api/v1/namespaces/default/events", `{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","name":"p","namespace":"default"},"reason":"R","type":"Normal","message":"m"}`).want(t, 201)
	for path, want := range map[string]string{
		"/api/v1/namespaces/default/services": `Name Type Cluster-IP External-IP Port(s) Age (Selector)
lb LoadBalancer 10.96.0.21 <pending> 53:30001/UDP AGE <none>
web NodePort 10.96.0.20 <none> 80:30000/TCP AGE a=b`,
		"/api/v1/nodes/node-a":               "Name Status Roles Age Version (Internal-IP) (External-IP) (OS-Image) (Kernel-Version) (Container-Runtime) (Pod-CIDRs)\nnode-a Ready edge AGE  <none> <none> <unknown> <unknown> <unknown> <none>",
		"/api/v1/namespaces":                 "Name Status Age\ndefault Active AGE",
		"/api/v1/namespaces/default/events":  "Last Seen Type Reason Object (Subobject) (Source) Message (First Seen) (Count) (Name)\n<unknown> Normal R pod/p   m <unknown> 1 e",
		"/api/v1/namespaces/default/pods":    "Name Ready Status Restarts Age (IP) (Node) (Nominated Node) (Readiness Gates)",
		vmsPath:                              "Name Age Status Ready\nguest AGE Stopped False",
		"/api/v1/namespaces/default/secrets": "Name Type Data Age",
	} {
		if got := table(t, httpClient(t, s), "https://"+strings.TrimPrefix(s.Config.Host, "https://")+path); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
		}
	}
}

func table(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got metav1.Table
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for i, c := range got.ColumnDefinitions {
		name := c.Name
		if c.Priority > 0 {
			name = "(" + name + ")"
		}
		fmt.Fprintf(&b, "%s%s", sep(i), name)
	}
	for _, row := range got.Rows {
		b.WriteString("\n")
		for i, cell := range row.Cells {
			text := fmt.Sprint(cell)
			if strings.HasSuffix(text, "s") && len(text) < 4 && text[0] >= '0' && text[0] <= '9' {
				text = "AGE"
			}
			fmt.Fprintf(&b, "%s%s", sep(i), text)
		}
	}
	return b.String()
}

func sep(i int) string {
	if i == 0 {
		return ""
	}
	return " "
}

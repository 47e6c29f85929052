package apiclient

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
)

// Of a kubeconfig of Portico's these lines are all that is wanted.
var (
	serverLine = regexp.MustCompile(`(?m)^\s*server: https://(\S+)$`)
	dataLines  = regexp.MustCompile(`(?m)^\s*(certificate-authority|client-certificate|client-key)-data: (\S+)$`)
)

// ReadKubeconfig reads what `portico up` writes for its administrator.
func ReadKubeconfig(file string) (Access, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return Access{}, err
	}
	server := serverLine.FindSubmatch(raw)
	fields := dataLines.FindAllSubmatch(raw, -1)
	if server == nil || len(fields) != 3 {
		return Access{}, fmt.Errorf("%s is not what a kubeconfig of Portico is", file)
	}
	out := Access{Address: string(server[1])}
	at := map[string]*[]byte{"certificate-authority": &out.CA, "client-certificate": &out.Cert, "client-key": &out.Key}
	for _, field := range fields {
		value, err := base64.StdEncoding.DecodeString(string(field[2]))
		if err != nil {
			return Access{}, fmt.Errorf("read %s: %w", file, err)
		}
		*at[string(field[1])] = value
	}
	return out, nil
}

// WriteKubeconfig writes one with which others reach the API at another address than a has.
func WriteKubeconfig(file, address string, a Access) error {
	type named map[string]any
	raw, err := json.Marshal(named{
		"apiVersion": "v1", "kind": "Config", "current-context": "bench",
		"clusters": []named{{"name": "bench", "cluster": named{"server": "https://" + address, "certificate-authority-data": a.CA}}},
		"users":    []named{{"name": "bench", "user": named{"client-certificate-data": a.Cert, "client-key-data": a.Key}}},
		"contexts": []named{{"name": "bench", "context": named{"cluster": "bench", "user": "bench"}}},
	})
	if err != nil {
		return fmt.Errorf("write the kubeconfig %s: %w", file, err)
	}
	return os.WriteFile(file, raw, 0o600) // JSON is YAML
}

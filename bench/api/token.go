package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/apiserver"
)

// addToken makes a service account that may do everything, by roles, and its token:
// the same requests for both servers.
func addToken(ctx context.Context, s *apiserver.Server) error {
	c, err := apiclient.Dial(ctx, s.Access, false)
	if err != nil {
		return err
	}
	defer c.Close()
	var answer bytes.Buffer
	const accounts = "/api/v1/namespaces/default/serviceaccounts"
	for _, request := range []struct{ path, body string }{
		{accounts, `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"bench"}}`},
		{"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"bench"},
			"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},
			"subjects":[{"kind":"ServiceAccount","name":"bench","namespace":"default"}]}`},
		{accounts + "/bench/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":7200}}`},
	} {
		// The namespace and the default roles may come a moment after readiness.
		if err := s.Wait(ctx, func(ctx context.Context) error {
			return c.Must("POST", request.path, "application/json", []byte(request.body), &answer)
		}); err != nil {
			return fmt.Errorf("make a token: %w", err)
		}
	}
	var token struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	if err := json.Unmarshal(answer.Bytes(), &token); err != nil || token.Status.Token == "" {
		return fmt.Errorf("make a token: the server answers %s (%w)", &answer, err)
	}
	s.Access.Token = token.Status.Token
	return nil
}

package apiserver

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// Gets that the audit policy wants to be noted are left to the chain, which notes them.
func TestAuditedGetsAreNotPlain(t *testing.T) {
	for level, noted := range map[auditinternal.Level]bool{auditinternal.LevelNone: false, auditinternal.LevelMetadata: true} {
		rules := &auditinternal.Policy{Rules: []auditinternal.PolicyRule{{Level: level}}}
		plain := false
		handler := leaveAudited(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { plain = true }), policy.NewPolicyRuleEvaluator(rules))
		left := false
		get := &plainGet{next: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { left = true })}
		get.req = httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/default/services/web", nil)
		ctx := context.WithValue(get.req.Context(), plainGetKey{}, get)
		ctx = apirequest.WithUser(ctx, &user.DefaultInfo{Name: "somebody"})
		ctx = apirequest.WithRequestInfo(ctx, &apirequest.RequestInfo{IsResourceRequest: true, Verb: "get", APIVersion: "v1", Resource: "services", Name: "web"})
		handler.ServeHTTP(httptest.NewRecorder(), get.req.WithContext(ctx))
		if left != noted || plain == noted {
			t.Errorf("level %s: left to the chain: %v, answered: %v", level, left, plain)
		}
	}
}

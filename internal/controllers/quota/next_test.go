package quota

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"

	"portico.dev/portico/internal/core/quota"
)

func list(amounts map[corev1.ResourceName]string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, n := range amounts {
		out[name] = resource.MustParse(n)
	}
	return out
}

type names = map[corev1.ResourceName]string

// API-13: what is used is raised to what is there at once, lowered by what went, and
// lowered to what is there only in stillness.
func TestNext(t *testing.T) {
	for name, c := range map[string]struct {
		hard, statusHard, used names
		scoped                 bool
		there, owed            quota.Amounts
		quiet                  bool
		want                   names
		waits                  bool
	}{
		"a new one": {
			hard: names{"services": "5", "cpu": "2"}, there: quota.Amounts{"services": 3}, want: names{"services": "3"},
		},
		"nothing is there": {hard: names{"services": "5"}, want: names{"services": "0"}},
		"as it is": {
			hard: names{"services": "5"}, statusHard: names{"services": "5"}, used: names{"services": "3"},
			there: quota.Amounts{"services": 3}, want: names{"services": "3"},
		},
		"a new limit": {
			hard: names{"services": "9"}, statusHard: names{"services": "5"}, used: names{"services": "3"},
			there: quota.Amounts{"services": 3}, want: names{"services": "3"},
		},
		"a name that comes, beside one that is charged": {
			hard: names{"services": "5", "pods": "5"}, statusHard: names{"services": "5"}, used: names{"services": "2"},
			there: quota.Amounts{"services": 1, "pods": 4}, want: names{"services": "2", "pods": "4"}, waits: true,
		},
		"a name that goes": {
			hard: names{"pods": "5"}, statusHard: names{"pods": "5", "services": "5"}, used: names{"pods": "1", "services": "2"},
			there: quota.Amounts{"services": 2, "pods": 1}, want: names{"pods": "1"},
		},
		"a use that was counted before the limit was": {
			hard: names{"services": "5"}, used: names{"services": "4"}, there: quota.Amounts{"services": 1}, want: names{"services": "1"},
		},
		"more than was charged": {
			hard: names{"services": "2"}, statusHard: names{"services": "2"}, used: names{"services": "1"},
			there: quota.Amounts{"services": 3}, want: names{"services": "3"},
		},
		"charged and not there yet": {
			hard: names{"services": "5"}, statusHard: names{"services": "5"}, used: names{"services": "4"},
			there: quota.Amounts{"services": 3}, want: names{"services": "4"}, waits: true,
		},
		"charged and never came": {
			hard: names{"services": "5"}, statusHard: names{"services": "5"}, used: names{"services": "4"},
			there: quota.Amounts{"services": 3}, quiet: true, want: names{"services": "3"},
		},
		"one went": {
			hard: names{"services": "5"}, statusHard: names{"services": "5"}, used: names{"services": "4"},
			there: quota.Amounts{"services": 3}, owed: quota.Amounts{"services": 1}, want: names{"services": "3"},
		},
		"one went while one is charged": {
			hard: names{"services": "5"}, statusHard: names{"services": "5"}, used: names{"services": "5"},
			there: quota.Amounts{"services": 3}, owed: quota.Amounts{"services": 1}, want: names{"services": "4"}, waits: true,
		},
		"more is owed than was charged": {
			hard: names{"services": "5"}, statusHard: names{"services": "5"}, used: names{"services": "1"},
			there: quota.Amounts{}, owed: quota.Amounts{"services": 3}, want: names{"services": "0"},
		},
		"scopes": {
			hard: names{"pods": "5"}, scoped: true, there: quota.Amounts{"pods": 3}, want: names{"pods": "0"},
		},
		"Events": {hard: names{"count/events": "5"}, there: quota.Amounts{"count/events": 3}, want: names{}},
	} {
		t.Run(name, func(t *testing.T) {
			q := &corev1.ResourceQuota{
				Spec:   corev1.ResourceQuotaSpec{Hard: list(c.hard)},
				Status: corev1.ResourceQuotaStatus{Hard: list(c.statusHard), Used: list(c.used)},
			}
			if c.scoped {
				q.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}
			}
			got, waits := next(q, c.there, c.owed, c.quiet)
			if !equality.Semantic.DeepEqual(got.Hard, list(c.hard)) {
				t.Errorf("hard: %v, want %v", got.Hard, c.hard)
			}
			if !equality.Semantic.DeepEqual(got.Used, list(c.want)) || waits != c.waits {
				t.Errorf("used: %v, waits %v; want %v, %v", got.Used, waits, c.want, c.waits)
			}
		})
	}
}

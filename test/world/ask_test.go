package world

import "testing"

func TestTallyFindsWhatIsWrong(t *testing.T) {
	for _, test := range []struct {
		name string
		t    Tally
		ok   bool
	}{
		{"even", Tally{Answers: map[string]int{"a": 95, "b": 103, "c": 102}}, true},
		{"a failure", Tally{Answers: map[string]int{"a": 100, "b": 100, "c": 99}, Failures: 1}, false},
		{"one is silent", Tally{Answers: map[string]int{"a": 150, "b": 150}}, false},
		{"a stranger", Tally{Answers: map[string]int{"a": 100, "b": 100, "c": 99, "x": 1}}, false},
		{"uneven", Tally{Answers: map[string]int{"a": 150, "b": 75, "c": 75}}, false},
	} {
		if err := test.t.Check("a", "b", "c"); (err == nil) != test.ok {
			t.Errorf("%s: check says %v", test.name, err)
		}
	}
}

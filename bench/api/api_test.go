package main

import (
	"os"
	"testing"
	"time"

	"portico.dev/portico/bench/figure/figuretest"
	"portico.dev/portico/bench/process"
)

// The short form measures a real server, writes every figure, and leaves nothing
// behind.
func TestShortFormMeasures(t *testing.T) {
	var names []string
	for _, g := range goals {
		names = append(names, g.name)
	}
	figuretest.Short(t, "bench-api", run, names...)
}

// The test binary is the load process, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == loadCommand || os.Args[1] == floorCommand) {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestMediansSpreadAndGoals(t *testing.T) {
	p := &plan{Plan: process.Plan{Rounds: 3}}
	figure := func(creates, ready float64) figures {
		f := figures{}
		for _, g := range goals {
			f[g.name] = 1
		}
		for _, name := range further {
			f[name] = 1
		}
		f[createsLast], f[readySeconds] = creates, ready
		return f
	}
	r := newResult(p, []figures{figure(900, 1), figure(700, 1.2), figure(800, 9)}, []figures{figure(100, 2.5), figure(90, 2.4), figure(110, 2.6)}, nil)
	if r.values[createsLast] != 800.0 || r.values["peer_"+createsLast] != 100.0 {
		t.Errorf("medians are %v and %v", r.values[createsLast], r.values["peer_"+createsLast])
	}
	if got := r.values["spread"].(map[string][2]float64)[readySeconds]; got != [2]float64{1, 9} {
		t.Errorf("spread of ready is %v", got)
	}
	met := r.values["goal_met"].(map[string]bool)
	if !met[createsLast] || !met[readySeconds] || met[idleMB] {
		t.Errorf("goals met: %v", met)
	}
}

func TestSummaryOfCalls(t *testing.T) {
	var took, ended []time.Duration
	for n := range 100 {
		took = append(took, time.Duration(n+1)*time.Millisecond)
		ended = append(ended, time.Duration(n+1)*10*time.Millisecond)
	}
	r := summarize(took, ended)
	if r.Step != 10 || len(r.Rates) != 10 || r.Rates[9] != 100 || r.P99ms != 100 || r.FirstP99ms != 10 || r.Seconds != 1 {
		t.Errorf("got %+v", r)
	}
}

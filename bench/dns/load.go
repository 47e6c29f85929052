package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"portico.dev/portico/bench/figure"
)

// clients is as how many dnsperf acts, each with a socket of its own, so that servers
// with several sockets get work on each. It has one thread, the servers have the rest.
const clients = 16

// Lines of dnsperf's report, and of each query with -v: "> NOERROR NAME TYPE SECONDS".
var (
	completedLine = regexp.MustCompile(`(?m)^\s*Queries completed:\s+(\d+)`)
	lostLine      = regexp.MustCompile(`(?m)^\s*Queries lost:\s+(\d+)`)
	rateLine      = regexp.MustCompile(`(?m)^\s*Queries per second:\s+([\d.]+)`)
	codesLine     = regexp.MustCompile(`(?m)^\s*Response codes:\s+(.*)$`)
)

// outcome is one run of dnsperf.
type outcome struct {
	completed, rate float64
	took            []time.Duration // with every query only
}

func (s *subject) dnsperf(ctx context.Context, questions string, duration time.Duration, more ...string) (*outcome, error) {
	args := append([]string{"-s", "127.0.0.1", "-p", s.port, "-d", questions, "-l", strconv.Itoa(int(duration.Seconds())), "-c", strconv.Itoa(clients), "-T", "1"}, more...)
	raw, err := exec.CommandContext(ctx, "dnsperf", args...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("dnsperf: %w: %s", err, raw[max(0, len(raw)-500):])
	}
	out := &outcome{}
	var lost float64
	for line, into := range map[*regexp.Regexp]*float64{completedLine: &out.completed, lostLine: &lost, rateLine: &out.rate} {
		found := line.FindSubmatch(raw)
		if found == nil {
			return nil, fmt.Errorf("dnsperf's report has no %q: %s", line, raw[max(0, len(raw)-500):])
		}
		if *into, err = strconv.ParseFloat(string(found[1]), 64); err != nil {
			return nil, fmt.Errorf("read dnsperf's report: %w", err)
		}
	}
	// A figure of a server that drops or refuses what it can't do means nothing.
	codes := codesLine.FindSubmatch(raw)
	if lost > out.completed/1000 || codes == nil || strings.Contains(string(codes[1]), "SERVFAIL") || strings.Contains(string(codes[1]), "REFUSED") {
		return nil, fmt.Errorf("dnsperf: %v of %v queries lost, codes %s", lost, out.completed, codes)
	}
	out.took, err = times(raw)
	return out, err
}

func times(raw []byte) (all []time.Duration, err error) {
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		line := lines.Text()
		if !strings.HasPrefix(line, "> ") {
			continue
		}
		seconds, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			continue // a query without an answer
		}
		all = append(all, time.Duration(seconds*float64(time.Second)))
	}
	return all, nil
}

// perProcessor is how many queries the server answers with a second of a processor, its
// part of the kernel's work included, when there are always some waiting.
func (s *subject) perProcessor(ctx context.Context, p *plan, dir, load string) (float64, error) {
	before, err := s.Times()
	if err != nil {
		return 0, err
	}
	out, err := s.dnsperf(ctx, filepath.Join(dir, load), p.duration)
	if err != nil {
		return 0, err
	}
	after, err := s.Times()
	if err != nil {
		return 0, err
	}
	return out.completed / after.Minus(before).Total().Seconds(), nil
}

// waitingTries is how often the waiting is measured where something else takes the
// processors, so that dnsperf or the server can't keep up.
const waitingTries = 5

// waiting is the time that queries wait at a rate which both servers can keep up with.
func (s *subject) waiting(ctx context.Context, p *plan, dir string) (p50, p99 float64, err error) {
	for range waitingTries {
		out, err := s.dnsperf(ctx, filepath.Join(dir, namesLoad), p.duration, "-Q", strconv.Itoa(p.rate), "-v")
		if err != nil {
			return 0, 0, err
		}
		if len(out.took) > 0 && out.rate > 0.9*float64(p.rate) {
			return figure.Milliseconds(figure.Percentile(out.took, 50)), figure.Milliseconds(figure.Percentile(out.took, 99)), nil
		}
	}
	return 0, 0, fmt.Errorf("dnsperf never reached %d queries per second: the machine is too busy, or the server too slow", p.rate)
}

package dataplane

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// exemption is tests that some techniques leave out, and why.
type exemption struct {
	on    []string
	why   string
	tests []string
}

// exemptions are all there are; docs/dataplanes.md lists the same (TestExemptions).
var exemptions = []exemption{
	{[]string{iptablesTechnique, ipvsTechnique, userspaceTechnique}, "about nftables' own maps, counters, limits and index of flows", []string{
		"TestAffinityFull", "TestAffinityMany", "TestChangedSinceRead", "TestFlowCost", "TestFlowFlood", "TestFlowsOfGoneTables", "TestGarbage", "TestListAndCleanup", "TestMemory",
		"TestRefusedPackets", "TestRepair", "TestScale", "TestUpgrade", "TestVerifyTells",
	}},
	{[]string{nftablesTechnique, ipvsTechnique, userspaceTechnique}, "a choice of iptables", []string{"TestLocalNodePorts"}},
	{[]string{nftablesTechnique, iptablesTechnique, ipvsTechnique}, "reads redirections to a proxy", []string{"TestShowUserspace"}},
	{[]string{iptablesTechnique}, "a change costs more where there are more rules", []string{"TestCost"}},
	{[]string{ipvsTechnique}, "its own package measures that, as far as an emulated processor can", []string{"TestCost"}},
	{[]string{ipvsTechnique}, "affinity lasts a minute longer", []string{"TestAffinityTime"}},
	{[]string{ipvsTechnique}, "requests pass INPUT and OUTPUT; only answers are forwarded", []string{"TestForeignFirewall"}},
	{[]string{iptablesTechnique, ipvsTechnique, userspaceTechnique}, "conntrack's entry of a connection that began before its Service stands until the client gives up", []string{"TestConnectionsBegunBefore"}},
	{[]string{iptablesTechnique, ipvsTechnique}, "this node answers what conntrack finds invalid of a backend that is no workload, in a client's place", []string{"TestInvalidForeign"}},
	{[]string{userspaceTechnique}, "conntrack leads a UDP flow whose Service went and came back to where the proxy was", []string{"TestFlowsOfGoneService"}},
	{[]string{iptablesTechnique, userspaceTechnique}, "conntrack leads a UDP flow by a node port on, at an address that is none of the node ports' any more", []string{"TestFlowsOfGoneAddress"}},
	{[]string{ipvsTechnique}, "a backend that is its own frontend isn't reached: IPVS takes what it sent there once more", []string{"TestOwnDoor"}},
	{[]string{userspaceTechnique}, "its connections end with it", []string{"TestFlowsOverRestart", "TestKilled", "TestRestart"}},
	{[]string{userspaceTechnique}, "no packet is passed on: connections end at the proxy", []string{"TestForeignFirewall", "TestInvalidPackets"}},
	{[]string{userspaceTechnique}, "the kernel knows the proxy and no backend", []string{"TestShow", "TestShowConnections"}},
	{[]string{userspaceTechnique}, "an error about a packet from a Service's address circles till its TTL ends", []string{"TestReturnedError"}},
	{[]string{userspaceTechnique}, "no SCTP", []string{"TestSCTP"}},
}

// skipExempt ends a test that the technique leaves out.
func skipExempt(t *testing.T) {
	t.Helper()
	if e := exempt(t.Name(), technique); e != nil {
		t.Skip(e.why)
	}
}

func exempt(test, technique string) *exemption {
	for i, e := range exemptions {
		if slices.Contains(e.on, technique) && slices.Contains(e.tests, test) {
			return &exemptions[i]
		}
	}
	return nil
}

// DP-21: the page that compares the techniques lists what each leaves out, and no more.
func TestExemptions(t *testing.T) {
	page, err := os.ReadFile("../../docs/dataplanes.md")
	if err != nil {
		if _, here := os.Stat("exempt_test.go"); here != nil {
			t.Skip("the sources aren't here")
		}
		t.Fatal(err)
	}
	var want []string
	for _, e := range exemptions {
		want = append(want, "| "+strings.Join(e.on, ", ")+" | "+e.why+" | "+strings.Join(e.tests, ", ")+" |")
	}
	_, section, _ := strings.Cut(string(page), "\n## What the suite leaves out\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var got []string
	for line := range strings.Lines(section) {
		if line = strings.TrimSpace(line); strings.Contains(line, " Test") && strings.HasPrefix(line, "| ") {
			got = append(got, line)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("docs/dataplanes.md has\n%s\nthe tests\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// notShown are the behaviours that no test of the suite shows on a technique.
var notShown = map[string][]string{
	iptablesTechnique:  {"DP-20"},
	ipvsTechnique:      {"DP-20", "DP-24"},
	userspaceTechnique: {"DP-18", "DP-24"},
}

// Each behaviour of the data plane is named by a test here, on each technique.
func TestEveryBehaviour(t *testing.T) {
	proofs := proofsByID(t)
	ids := []string{"DP-24"}
	for n := range 20 {
		ids = append(ids, fmt.Sprintf("DP-%02d", n+1))
	}
	slices.Sort(ids)
	for _, technique := range []string{nftablesTechnique, iptablesTechnique, ipvsTechnique, userspaceTechnique} {
		var missing []string
		for _, id := range ids {
			if !slices.ContainsFunc(proofs[id], func(test string) bool { return exempt(test, technique) == nil }) {
				missing = append(missing, id)
			}
		}
		if !slices.Equal(missing, notShown[technique]) {
			t.Errorf("%s: no test shows %v, expected that of %v", technique, missing, notShown[technique])
		}
	}
}

// proofsByID gives the tests of this package whose comments name a behaviour.
func proofsByID(t *testing.T) map[string][]string {
	t.Helper()
	files := token.NewFileSet()
	names, err := filepath.Glob("*_test.go")
	if err != nil || len(names) == 0 {
		t.Skip("the sources aren't here") // in a guest
	}
	id := regexp.MustCompile(`DP-\d\d`)
	out := map[string][]string{}
	for _, name := range names {
		file, err := parser.ParseFile(files, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(f.Name.Name, "Test") {
				continue
			}
			for _, found := range id.FindAllString(f.Doc.Text(), -1) {
				out[found] = append(out[found], f.Name.Name)
			}
		}
	}
	return out
}

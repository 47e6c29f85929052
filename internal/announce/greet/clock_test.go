package greet

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// LB-07: a jump of the wall clock, by an hour or a year, neither kills a peer nor keeps one
// alive: all times are differences on the monotonic clock. The state machine is handed
// durations, and nothing here reads a clock but Open, once, and Now.
func TestNoWallClock(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]int{
		"Open Now": 1, "Now Since": 1,
		"decodeClaims Unix": 1, // since when an address is held, for people to read
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := s.X.(*ast.Ident); !ok || x.Name != "time" {
					return true
				}
				switch s.Sel.Name {
				case "Now", "Since", "Until", "Unix", "UnixMilli", "Date":
					if key := f.Name.Name + " " + s.Sel.Name; allowed[key] == 0 {
						t.Errorf("%s: %s calls time.%s", name, f.Name.Name, s.Sel.Name)
					} else {
						allowed[key]--
					}
				}
				return true
			})
		}
	}
	// What Open keeps has a monotonic reading, which Now takes; Round(0) removes it, and
	// then a clock that was set an hour back would make Now negative.
	m := &Mesh{start: time.Now()}
	if m.start == m.start.Round(0) || m.Now() < 0 {
		t.Error("Now goes by the wall clock")
	}
}

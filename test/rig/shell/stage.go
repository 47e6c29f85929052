package main

import (
	"errors"
	"fmt"
	"slices"
)

// stage is a rig.T outside tests: who makes something notes here how it goes away.
type stage struct {
	undo []func()
	errs []error
}

// failure is what Fatalf ends the making of the world with.
type failure struct{ error }

func (s *stage) Helper()          {}
func (s *stage) Cleanup(f func()) { s.undo = append(s.undo, f) }

func (s *stage) Errorf(format string, args ...any) {
	s.errs = append(s.errs, fmt.Errorf(format, args...))
}

func (s *stage) Fatalf(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }
func (s *stage) Skip(args ...any)                  { panic(failure{errors.New(fmt.Sprint(args...))}) }

// end removes everything, the youngest first. panicked is what recover gave.
func (s *stage) end(panicked any) error {
	for _, f := range slices.Backward(s.undo) {
		f()
	}
	f, ok := panicked.(failure)
	if panicked != nil && !ok {
		panic(panicked)
	}
	if ok {
		s.errs = append(s.errs, f)
	}
	return errors.Join(s.errs...)
}

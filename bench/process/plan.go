package process

import (
	"flag"
	"fmt"
	"os"
)

// Plan is what every comparison is told. Its own plan has this within.
type Plan struct {
	Portico string // our binary
	Out     string // file for the figures
	Dir     string // where the servers' folders are made
	Rounds  int
	Short   bool // only to see that the measurement works
}

// Flags begins a comparison's flags, with those that each has.
func (p *Plan) Flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.StringVar(&p.Portico, "portico", "bin/portico", "our binary")
	f.StringVar(&p.Out, "out", "", "file for the figures, in JSON")
	f.StringVar(&p.Dir, "dir", os.TempDir(), "where the servers' folders are made; its file system counts, as every write of the API waits for it")
	f.IntVar(&p.Rounds, "rounds", 3, "how often each is measured")
	f.BoolVar(&p.Short, "short", false, "one small round without the peer")
	return f
}

// Parse reads flags, and refuses what is none.
func Parse(f *flag.FlagSet, args []string) error {
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("%q is no flag", f.Arg(0))
	}
	return nil
}

// Folder makes the servers' folder; remove takes it away.
func (p *Plan) Folder() (dir string, remove func(), err error) {
	if dir, err = os.MkdirTemp(p.Dir, "portico-bench-"); err != nil {
		return "", nil, fmt.Errorf("make the servers' folder: %w", err)
	}
	return dir, func() { os.RemoveAll(dir) }, nil
}

// Command build makes the test guest's image: `make guest` runs it. With -program it makes a
// guest that runs that program and ends, as a kernel and an initramfs.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"portico.dev/portico/test/guest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := build(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func build(ctx context.Context) error {
	out := flag.String("o", "", "write the OCI archive to this `file`; without it, print where it is in the cache")
	cache := flag.String("cache", "", "the `folder` for downloads and results (default .cache/guest in the source tree)")
	suite := guest.Suite{}
	flag.StringVar(&suite.Program, "program", "", "make a guest that runs this static `executable`, in the folder -o")
	list := func(into *[]string, name, usage string) {
		flag.Func(name, usage+", separated by commas", func(s string) error {
			*into = strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
			return nil
		})
	}
	list(&suite.Args, "args", "the program's `arguments`")
	list(&suite.Modules, "modules", "the kernel's `modules` that it needs")
	list(&suite.Tools, "tools", "`programs` that it runs")
	list(&suite.Files, "files", "`files` and folders that it finds at the same paths")
	flag.Parse()
	if *cache == "" {
		dir, err := guest.CacheDir(ctx)
		if err != nil {
			return err
		}
		*cache = dir
	}
	options := guest.Options{Cache: *cache, Logf: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}}
	if suite.Program != "" {
		made, err := guest.BuildSuite(ctx, options, suite, *out)
		if err != nil {
			return err
		}
		return copyFile(made.Kernel, filepath.Join(*out, "vmlinuz"))
	}
	made, err := guest.Build(ctx, options)
	if err != nil {
		return err
	}
	if *out == "" {
		fmt.Println(made.Archive)
		return nil
	}
	return copyFile(made.Archive, *out)
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

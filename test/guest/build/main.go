// Command build makes the test guest's image: `make guest` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

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
	flag.Parse()
	if *cache == "" {
		dir, err := guest.CacheDir(ctx)
		if err != nil {
			return err
		}
		*cache = dir
	}
	made, err := guest.Build(ctx, guest.Options{Cache: *cache, Logf: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}})
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

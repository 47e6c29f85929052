package sysctl

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Root is where the kernel shows its parameters. net/ below it is that of the
// reader's network namespace (proc(5)).
const Root = "/proc/sys"

// Get reads one parameter. The error wraps fs.ErrNotExist when this kernel or
// this interface hasn't got it.
func Get(key string) (string, error) {
	b, err := os.ReadFile(filepath.Join(Root, key))
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", key, err)
	}
	return string(bytes.TrimSpace(b)), nil
}

// Set writes one parameter and keeps no record of it: for what goes away with
// its interface.
func Set(key, value string) error {
	if err := os.WriteFile(filepath.Join(Root, key), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", key, value, err)
	}
	return nil
}

// Tune sets the parameters of one link that differ, without a record as Set does: pairs of
// a key, in which "%" stands for the link, and a value. Those that this kernel hasn't got
// are left out.
func Tune(link string, settings [][2]string) error {
	for _, s := range settings {
		key, value := strings.Replace(s[0], "%", link, 1), s[1]
		now, err := Get(key)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && now != value {
			err = Set(key, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Exists tells whether the kernel has the parameter.
func Exists(key string) bool {
	_, err := os.Stat(filepath.Join(Root, key))
	return !errors.Is(err, fs.ErrNotExist)
}

// Interfaces lists the interfaces that have a folder below prefix (such as
// "net/ipv6/conf"), without the pseudo interfaces "all" and "default". It is
// empty where the folder is missing.
func Interfaces(prefix string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(Root, prefix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list interfaces of sysctl %s: %w", prefix, err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != "all" && e.Name() != "default" {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// dotted gives the name under which sysctl(8) knows key.
func dotted(key string) string {
	return strings.NewReplacer("/", ".", ".", "/").Replace(key)
}

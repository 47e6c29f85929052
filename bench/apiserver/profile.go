package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"portico.dev/portico/bench/apiclient"
)

// Profile takes a profile of our server's processors for some seconds into a file; the
// returned function waits for its end. The server must have --profiling.
func (s *Server) Profile(ctx context.Context, seconds int, file string) (func() error, error) {
	c, err := apiclient.Dial(ctx, s.Access, false)
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() {
		defer c.Close()
		done <- save(c, fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds), file)
	}()
	return func() error { return <-done }, nil
}

// Heap saves a profile of what our server's memory holds.
func (s *Server) Heap(ctx context.Context, file string) error {
	c, err := apiclient.Dial(ctx, s.Access, false)
	if err != nil {
		return err
	}
	defer c.Close()
	return save(c, "/debug/pprof/heap?gc=1", file)
}

func save(c *apiclient.Client, path, file string) error {
	var answer bytes.Buffer
	if err := c.Must("GET", path, "", nil, &answer); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("save a profile: %w", err)
	}
	return os.WriteFile(file, answer.Bytes(), 0o644)
}

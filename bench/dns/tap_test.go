package main

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// An event has arrived when all of the name has, and once only.
func TestTapSeesNamesInPieces(t *testing.T) {
	tap := &tap{}
	arrived := tap.expect("news-1-2", func() {})
	watch := &tapped{tap: tap, ReadCloser: io.NopCloser(iotest.OneByteReader(strings.NewReader("news-1-1 news-1-")))}
	if _, err := io.ReadAll(watch); err != nil || len(arrived) > 0 {
		t.Fatalf("too early (%v)", err)
	}
	before := time.Now()
	watch.ReadCloser = io.NopCloser(strings.NewReader("2 news-1-2"))
	if _, err := io.ReadAll(watch); err != nil || len(arrived) != 1 {
		t.Fatalf("%d events (%v)", len(arrived), err)
	}
	if at := <-arrived; at.Before(before) {
		t.Errorf("arrived %v early", before.Sub(at))
	}
	watch.ReadCloser = io.NopCloser(iotest.ErrReader(io.ErrUnexpectedEOF))
	if _, err := io.ReadAll(watch); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an end becomes %v", err)
	}
}

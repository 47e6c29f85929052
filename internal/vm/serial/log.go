package serial

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

const (
	// scrollback is what a new session sees of the past: a few screens.
	scrollback = 16 << 10
	// maxLog bounds a guest's log file: a guest that prints without end must
	// not fill the host's disk.
	maxLog = 256 << 10
)

// Log keeps the end of what a guest printed, in memory and in a file, so that a
// restart of the daemon loses none of it.
type Log struct {
	file *os.File
	size int64
	tail []byte
}

// OpenLog opens or makes the log at path.
func OpenLog(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the console's log: %w", err)
	}
	l := &Log{file: f}
	if l.size, err = f.Seek(0, io.SeekEnd); err == nil {
		l.tail, err = Tail(path, scrollback)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read the console's log: %w", err)
	}
	return l, nil
}

// Write appends; when the file is full it begins anew with the scrollback.
func (l *Log) Write(p []byte) (int, error) {
	l.tail = append(l.tail, p...)
	if drop := len(l.tail) - scrollback; drop > 0 {
		l.tail = append(l.tail[:0], l.tail[drop:]...)
	}
	if l.size+int64(len(p)) <= maxLog {
		n, err := l.file.WriteAt(p, l.size)
		l.size += int64(n)
		return n, err
	}
	if err := l.file.Truncate(0); err != nil {
		return 0, err
	}
	n, err := l.file.WriteAt(l.tail, 0)
	l.size = int64(n)
	return len(p), err
}

// Close closes the file.
func (l *Log) Close() error { return l.file.Close() }

// Tail gives the last n bytes of a file; none if it doesn't exist.
func Tail(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-n)
	return io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
}

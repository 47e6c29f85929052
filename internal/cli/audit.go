package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gopkg.in/natefinch/lumberjack.v2"
)

const (
	auditLogMegabytes = 100 // upstream's --audit-log-maxsize where it rotates at all
	auditLogFiles     = 10  // a gigabyte in all, some weeks of a busy small cluster
)

// openAuditLog opens the file that --audit-log names; nil for none.
func openAuditLog(file string) (io.WriteCloser, error) {
	if file == "" {
		return nil, nil
	}
	refused := func(err error) error {
		return fmt.Errorf("--audit-log %s can't be written: %w; give a file in a folder that you may write to", file, cause(err))
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil, refused(err)
	}
	if st, err := os.Stat(filepath.Dir(abs)); err != nil {
		return nil, refused(err)
	} else if !st.IsDir() {
		return nil, refused(errors.New("its folder is a file"))
	}
	// Now, not at the first write; and 0600, for names of people are in it.
	f, err := os.OpenFile(abs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, refused(err)
	}
	if err := f.Close(); err != nil {
		return nil, refused(err)
	}
	return &lumberjack.Logger{Filename: abs, MaxSize: auditLogMegabytes, MaxBackups: auditLogFiles}, nil
}

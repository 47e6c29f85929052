package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// dbAhead is how far ahead the database has its blocks: more than the writes between
// two commits fill (commitBytes), so that all that was let through can be committed even when somebody
// else takes the last block of the file system at that moment. bbolt makes its file
// longer without blocks (a hole), and etcd ends the process when writing there fails.
const dbAhead = 32 * mebibyte

// reserve allots blocks to the database's file, to its holes and beyond its end
// (fallocate(2), FALLOC_FL_KEEP_SIZE). Where a file system can't do that there is none.
func (s *space) reserve() error {
	upTo := s.size() + dbAhead
	file := filepath.Join(s.dir, "member", "snap", "db")
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("reserve space for the store: %w", err)
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, upTo)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("reserve space for %s: %w", file, err)
	}
	s.reserved.Store(upTo)
	return nil
}

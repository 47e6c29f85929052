package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
)

const (
	memberFile    = "member.json"
	authorityFile = "ca.crt"
	// The names under which kubelets keep the same: a certificate and its key in one
	// file, so that both change at once.
	clientFile  = "client-current.pem"
	servingFile = "serving-current.pem"
)

// Member is a node that has joined.
type Member struct {
	Server   string   `json:"server"` // URL of the API
	Node     string   `json:"node"`
	Settings Settings `json:"settings"` // as they were last seen
}

// Home is the folder with a node's identity.
type Home string

// Read gives nil where no node has joined.
func (h Home) Read() (*Member, error) {
	raw, err := os.ReadFile(h.file(memberFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read this node's identity: %w", err)
	}
	m := &Member{}
	if err := json.Unmarshal(raw, m); err != nil || m.Server == "" || m.Node == "" {
		return nil, fmt.Errorf("this node's identity in %s is damaged; remove that folder and join again with a new token", h)
	}
	return m, nil
}

// Create keeps a new member's identity. What Read finds is whole: the note of the member
// comes last.
func (h Home) Create(m Member, authority, client []byte) error {
	if err := h.private(); err != nil {
		return fmt.Errorf("make the folder of this node's identity: %w", err)
	}
	if err := h.write(authorityFile, authority); err != nil {
		return err
	}
	if err := h.write(clientFile, client); err != nil {
		return err
	}
	return h.Note(m)
}

// private makes the folder for its owner alone, also where it was there before.
func (h Home) private() error {
	if err := os.MkdirAll(string(h), 0o700); err != nil {
		return err
	}
	if info, err := os.Lstat(string(h)); err != nil || !info.IsDir() {
		return errors.Join(err, fmt.Errorf("%s leads elsewhere; remove it", h))
	}
	return os.Chmod(string(h), 0o700)
}

// Note keeps what has changed of a member.
func (h Home) Note(m Member) error {
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("encode this node's identity: %w", err)
	}
	return h.write(memberFile, append(raw, '\n'))
}

// Config is how a member calls its API server. client-go reads a renewed certificate
// from the file, and closes connections that were made with the one before.
func (h Home) Config(m *Member) *rest.Config {
	return &rest.Config{Host: m.Server, TLSClientConfig: rest.TLSClientConfig{
		CAFile: h.file(authorityFile), CertFile: h.file(clientFile), KeyFile: h.file(clientFile),
	}}
}

// Authority is the certificate of the cluster's authority, PEM.
func (h Home) Authority() ([]byte, error) {
	raw, err := os.ReadFile(h.file(authorityFile))
	if err != nil {
		return nil, fmt.Errorf("read the cluster's authority: %w", err)
	}
	return raw, nil
}

// Ended says since when the member can't prove itself any more; zero: it can.
func (h Home) Ended(now time.Time) (time.Time, error) {
	pair, err := h.pair(clientFile)
	if err != nil {
		return time.Time{}, err
	}
	if end := pair.Leaf.NotAfter; !now.Before(end) {
		return end, nil
	}
	return time.Time{}, nil
}

// Remove forgets the identity.
func (h Home) Remove() error {
	if err := os.RemoveAll(string(h)); err != nil {
		return fmt.Errorf("remove this node's identity: %w", err)
	}
	return nil
}

func (h Home) file(name string) string { return filepath.Join(string(h), name) }

// write makes a file for its owner alone, whole or not at all, also after a power cut.
func (h Home) write(name string, data []byte) error {
	f, err := os.CreateTemp(string(h), name+".*")
	if err != nil {
		return fmt.Errorf("write this node's identity: %w", err)
	}
	defer os.Remove(f.Name()) // absent after the rename
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write this node's identity: %w", err)
	}
	if err := os.Rename(f.Name(), h.file(name)); err != nil {
		return fmt.Errorf("write this node's identity: %w", err)
	}
	dir, err := os.Open(string(h))
	if err != nil {
		return fmt.Errorf("write this node's identity: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

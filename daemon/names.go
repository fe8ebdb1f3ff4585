package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// publicNames are the paths that the user named for sockets, pidfiles and logs. Each is a symbolic link into the folder of the
// generation that has the guest: QEMU unlinks the paths it makes as it ends, whoever owns them by then, so the names are qlive's.
type publicNames struct {
	links map[string]string // public path to target
}

// newPublicNames makes the links, all or none. A path that something else stands at is refused.
func newPublicNames(dir string, names []cmdline.Name) (publicNames, error) {
	p := publicNames{links: make(map[string]string)}
	for _, n := range names {
		public := publicPath(dir, n)
		if err := p.link(public, n.Path); err != nil {
			p.remove()
			return publicNames{}, err
		}
	}
	return p, nil
}

func (p *publicNames) link(public, target string) error {
	if p.links[public] == "" {
		if err := checkFree(public); err != nil {
			return err
		}
	}
	next := public + ".qlive-new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return vmstate.Errorf(vmstate.Host, "cannot make room for a link: %w", err)
	}
	err := os.Symlink(target, next)
	if err == nil {
		err = os.Rename(next, public)
	}
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot put a link at %s: %w", public, err).With("the folder must exist and be writable for the daemon")
	}
	p.links[public] = target
	return nil
}

// checkFree refuses a path where something is that somebody may need. Sockets and links that lead nowhere are what a killed QEMU or daemon
// leaves behind; QEMU itself puts its socket in the place of such a one.
func checkFree(public string) error {
	info, err := os.Lstat(public)
	if err != nil {
		return nil // there is nothing, or making the link will tell why it cannot be
	}
	switch info.Mode().Type() {
	case fs.ModeSymlink:
		if _, err := os.Stat(public); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	case fs.ModeSocket:
		conn, err := net.DialTimeout("unix", public, time.Second)
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil
		}
		if err == nil {
			conn.Close()
		}
	}
	return vmstate.Errorf(vmstate.Conflict, "cannot put a link at %s: something is there", public).
		With("if no other VM or QEMU uses it, move it away; otherwise name another path")
}

// foundNames are the links that an earlier daemon made: those that lead into the VM's folder.
func foundNames(dir, vmDir string, names []cmdline.Name) publicNames {
	p := publicNames{links: make(map[string]string)}
	for _, n := range names {
		public := publicPath(dir, n)
		if at, err := os.Readlink(public); err == nil && within(at, vmDir) {
			p.links[public] = at
		}
	}
	return p
}

func publicPath(dir string, n cmdline.Name) string {
	if filepath.IsAbs(n.Public) {
		return n.Public
	}
	return filepath.Join(dir, n.Public)
}

// move points the links at another generation. It is done after the guest runs there; what fails is said and does no harm to it.
func (p *publicNames) move(dir string, names []cmdline.Name) error {
	var errs []error
	for _, n := range names {
		public := publicPath(dir, n)
		if err := p.link(public, n.Path); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", public, err))
		}
	}
	return errors.Join(errs...)
}

// remove takes the links away, unless somebody has put something else there.
func (p *publicNames) remove() {
	for public, target := range p.links {
		if at, err := os.Readlink(public); err == nil && at == target {
			_ = os.Remove(public) // a link that leads nowhere is all that is left
		}
	}
	p.links = nil
}

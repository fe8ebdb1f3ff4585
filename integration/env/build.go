package env

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Build makes the program at path as `make build` does; version is what it says of itself. All tests build it the same way and at the same place in the
// cache, where it is linked anew only if something has changed.
func Build(ctx context.Context, path, version string) error {
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	built := filepath.Join(cache, "built", "qlive-"+version)
	if err := os.MkdirAll(filepath.Dir(built), 0o755); err != nil {
		return fmt.Errorf("cannot build qlive: %w", err)
	}
	lock, err := os.OpenFile(built+".lock", os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot build qlive: %w", err)
	}
	defer lock.Close() // and with it the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("cannot build qlive: cannot lock %s: %w", lock.Name(), err)
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-X main.version="+version, "-o", built, "qlive/cmd/qlive")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build qlive: %w\n%s", err, out)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot build qlive: %w", err)
	}
	if os.Link(built, path) == nil { // what is built anew is another file
		return nil
	}
	// Not by this process: a child that it starts meanwhile would hold the file open for writing, and then it cannot be run.
	if out, err := exec.CommandContext(ctx, "cp", built, path).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot copy the qlive that was built: %w\n%s", err, out)
	}
	return nil
}

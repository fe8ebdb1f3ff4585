package env

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

// Build makes the program at path as `make build` does; version is what it says of itself. All tests build it the same way, so that its packages
// are compiled once.
func Build(ctx context.Context, path, version string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-X main.version="+version, "-o", path, "qlive/cmd/qlive")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build qlive: %w\n%s", err, out)
	}
	return nil
}

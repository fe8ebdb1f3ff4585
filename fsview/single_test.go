package fsview_test

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"
)

const singleEnv = "FSVIEW_TEST_SINGLE"

// TestSingleProcessor runs the other tests with one processor: whoever waits for the tree in the process that
// serves it must not take the last one away from the server.
func TestSingleProcessor(t *testing.T) {
	if os.Getenv(singleEnv) != "" {
		return // this is that run
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^Test(Conformance|Doc|Events|Close|Writes|Log|NothingLeaks|OneOpen)")
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", singleEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

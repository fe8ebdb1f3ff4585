package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"qlive/cmd/qlive/cli"
)

// The commands that the program adds to those of package cli are in docs/cli.md, too.
func TestCommandsPage(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*cobra.Command{benchCommand(), demoCommand()} {
		if !strings.Contains(string(text), "| `"+c.Name()+"` |") {
			t.Errorf("docs/cli.md has no row of %q", c.Name())
		}
	}
}

// The benchmark is a command of its own beside those below it.
func TestBenchIsRun(t *testing.T) {
	for _, args := range [][]string{{"bench", "--rows", "nonsense"}, {"bench", "--output", "nonsense"}, {"bench", "nonsense"}} {
		var said bytes.Buffer
		code := cli.Run(t.Context(), cli.Env{Stdout: &said, Stderr: &said, Getenv: func(string) string { return "" }, Commands: []*cobra.Command{benchCommand()}}, args)
		if code == 0 || !strings.Contains(said.String(), "nonsense") {
			t.Errorf("qlive %v: exit code %d: %s", args, code, &said)
		}
	}
}

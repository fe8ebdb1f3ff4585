package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
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

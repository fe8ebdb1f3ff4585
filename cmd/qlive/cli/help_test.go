package cli

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

// The help of every command is a golden file, and every golden file is a command's.
func TestHelp(t *testing.T) {
	update := flag.Lookup("update").Value.String() == "true"
	var want []string
	var walk func(c *cobra.Command, path []string)
	walk = func(c *cobra.Command, path []string) {
		file := filepath.Join("testdata", "help", strings.Join(append([]string{"qlive"}, path...), "-")+".txt")
		want = append(want, filepath.Base(file))
		var out, errs bytes.Buffer
		env := Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }, Dir: "/"}
		if code := Run(context.Background(), env, append(slices.Clone(path), "--help")); code != 0 || errs.Len() > 0 {
			t.Errorf("%v --help: %d, %s", path, code, errs.String())
		}
		if update {
			if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%v; write it with -update", err)
			return
		}
		if diff := cmp.Diff(string(golden), out.String()); diff != "" {
			t.Errorf("%s is out of date; write it anew with -update (-file +now):\n%s", file, diff)
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%v: short help %q", path, c.Short)
		}
		for _, sub := range c.Commands() {
			if sub.Name() != "completion" && sub.Name() != "help" { // cobra's own
				walk(sub, append(slices.Clone(path), sub.Name()))
			}
		}
	}
	if err := os.MkdirAll("testdata/help", 0o755); err != nil {
		t.Fatal(err)
	}
	a := &app{Env: Env{Stdout: io.Discard, Stderr: io.Discard, Getenv: func(string) string { return "" }}}
	walk(a.root(), nil)
	files, err := os.ReadDir("testdata/help")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.Contains(want, f.Name()) {
			t.Errorf("testdata/help/%s is no command's", f.Name())
		}
	}
}

package recovery_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"qlive/flip/recovery"
)

var update = flag.Bool("update", false, "write the generated parts anew")

// The table in the documentation is the one that decides.
func TestMarkdown(t *testing.T) {
	const path = "../../docs/architecture.md"
	const begin, end = "<!-- recovery: generated -->\n", "<!-- end of recovery -->"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", path)
	}
	want := before + begin + recovery.Markdown() + end + after
	if want == string(text) {
		return
	}
	if !*update {
		t.Fatalf("the table in %s is not recovery.Table: go test ./flip/recovery -run TestMarkdown -update", path)
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

package vmstate_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"qlive/vmstate"
)

var update = flag.Bool("update", false, "write the generated parts anew")

// The diagram in the documentation is the table's.
func TestDiagram(t *testing.T) {
	const path = "../docs/architecture.md"
	const begin, end = "<!-- phases: generated -->\n", "<!-- end -->"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the diagram", path)
	}
	want := before + begin + "```mermaid\n" + vmstate.PhaseDiagram() + "```\n" + end + after
	if want == string(text) {
		return
	}
	if !*update {
		t.Fatalf("the diagram in %s is not the one of vmstate.Phases: go test ./vmstate -run TestDiagram -update", path)
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

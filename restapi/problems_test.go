package restapi_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

// docs/problems.md holds the table of kinds as it is, and a section for each.
func TestProblemsPage(t *testing.T) {
	const path = "../docs/problems.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	var table strings.Builder
	table.WriteString("| type | title | HTTP | errno | exit |\n|---|---|---|---|---|\n")
	for _, row := range vmstate.Kinds() {
		fmt.Fprintf(&table, "| [`%s`](#%s) | %s | %d | %s | %d |\n", row.Kind.ProblemType(), row.Kind, row.Title, row.Status, unix.ErrnoName(row.Errno), row.Exit)
		if !strings.Contains(page, "\n### "+string(row.Kind)+"\n") {
			t.Errorf("%s has no section on %s", path, row.Kind)
		}
	}
	if got, want := strings.Count(page, "\n### "), len(vmstate.Kinds()); got != want {
		t.Errorf("%s has %d sections on kinds, and there are %d", path, got, want)
	}
	begin, rest, ok := strings.Cut(page, "-update` -->\n")
	_, end, ok2 := strings.Cut(rest, "<!-- end of kinds -->")
	if !ok || !ok2 {
		t.Fatalf("%s lacks the marks around the table", path)
	}
	golden(t, path, []byte(begin+"-update` -->\n"+table.String()+"<!-- end of kinds -->"+end))
}

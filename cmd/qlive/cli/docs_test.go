package cli

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"qlive/vmstate"
)

const page = "../../../docs/cli.md"

// docs/cli.md has the exit codes as they are.
func TestExitCodesPage(t *testing.T) {
	meaning := map[int]string{
		vmstate.ExitOK: "done", vmstate.ExitOther: "another failure", vmstate.ExitUsage: "the command line, or the request, makes no sense",
		3: "not found", 4: "not allowed", vmstate.ExitUnreachable: "the daemon does not answer, or is not ready", 6: "not in this state, or a handoff is in progress",
		vmstate.ExitRolledBack: "rolled back: the VM runs on in the old QEMU", 8: "**the guest is lost**: nobody runs it, or nobody can say who does",
		9: "out of time; the work may go on", vmstate.ExitDoctor: "doctor found something that fails", vmstate.ExitInterrupted: "interrupted: the wait, not the work",
	}
	kinds := map[int][]string{}
	for _, row := range vmstate.Kinds() {
		kinds[row.Exit] = append(kinds[row.Exit], fmt.Sprintf("[`%s`](problems.md#%s)", row.Kind, row.Kind))
		if meaning[row.Exit] == "" {
			t.Errorf("exit code %d of %s has no meaning here", row.Exit, row.Kind)
		}
	}
	var codes []int
	for code := range meaning {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	var table strings.Builder
	table.WriteString("| code | meaning | problems |\n|---|---|---|\n")
	for _, code := range codes {
		fmt.Fprintf(&table, "| %d | %s | %s |\n", code, meaning[code], strings.Join(kinds[code], ", "))
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "-update` -->\n", "<!-- end of codes -->"
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s lacks the marks around the table", page)
	}
	want := before + begin + table.String() + end + after
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(text), want); diff != "" {
		t.Errorf("%s is out of date; write it anew with -update (-file +now):\n%s", page, diff)
	}
}

// Every command that prints something for programs is in docs/cli.md.
func TestCommandsPage(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	a := &app{Env: Env{Getenv: func(string) string { return "" }}}
	for _, c := range a.root().Commands() {
		names := []*cobra.Command{c}
		if c.HasSubCommands() {
			names = c.Commands()
		}
		for _, c := range names {
			if slices.Contains([]string{"console", "log", "stop", "rm"}, c.Name()) { // they print no document
				continue
			}
			if !strings.Contains(string(text), c.Name()) {
				t.Errorf("%s does not know %q", page, c.CommandPath())
			}
		}
	}
}

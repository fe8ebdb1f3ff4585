package cmdline_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

var update = flag.Bool("update", false, "write the golden files anew")

// machines are some of those that QEMU 7.2 lists.
func machines() []cmdline.Machine {
	return []cmdline.Machine{
		{Name: "none"},
		{Name: "microvm", RAMID: "microvm.ram"},
		{Name: "pc-i440fx-7.2", Alias: "pc", Default: true, RAMID: "pc.ram"},
		{Name: "pc-q35-7.2", Alias: "q35", RAMID: "pc.ram"},
		{Name: "pc-q35-4.0", RAMID: "pc.ram"},
		{Name: "pc-q35-4.0.1", RAMID: "pc.ram"},
		{Name: "pc-q35-4.1", RAMID: "pc.ram"},
		{Name: "pc-i440fx-3.1", RAMID: "pc.ram"},
		{Name: "xenfv-4.2", RAMID: "xen.ram"},
	}
}

// facts are what the host of the golden files would tell.
func facts(tb testing.TB, args []string) cmdline.Facts {
	tb.Helper()
	m, err := cmdline.ResolveMachine(args, machines())
	if err != nil {
		tb.Fatal(err)
	}
	return cmdline.Facts{
		Machine: m, GUID: "f0e1d2c3-b4a5-4687-9a0b-1c2d3e4f5061",
		Paths: map[string]cmdline.PathInfo{
			"/dev/shm":          {Exists: true, Dir: true, Memory: true},
			"/dev/hugepages":    {Exists: true, Dir: true, Memory: true, PageBytes: 2 << 20},
			"/dev/hugepages/x":  {Memory: true, PageBytes: 2 << 20},
			"/var/lib/ram":      {Exists: true, Dir: true},
			"/srv/template":     {Exists: true, Regular: true},
			"/srv/vm/kernel,v1": {Exists: true, Regular: true, Linux: true},
		},
	}
}

func first() cmdline.Placement {
	return cmdline.Placement{Dir: "/run/qlive/vm1/0", Version: cmdline.Version{Major: 7, Minor: 2, Micro: 22}}
}

func second() cmdline.Placement {
	return cmdline.Placement{Dir: "/run/qlive/vm1/1", Version: cmdline.Version{Major: 10, Micro: 2}, Incoming: true}
}

// readLine reads a command line, one argument a line; {tmp} stands for a folder.
func readLine(tb testing.TB, path string) []string {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(strings.ReplaceAll(string(b), "{tmp}", "/srv/vm"), "\n"), "\n")
}

func cases(tb testing.TB, folder string) map[string][]string {
	tb.Helper()
	paths, err := filepath.Glob("testdata/" + folder + "/*.txt")
	if err != nil || len(paths) == 0 {
		tb.Fatal("no command lines under testdata/", folder, err)
	}
	lines := map[string][]string{}
	for _, p := range paths {
		lines[strings.TrimSuffix(filepath.Base(p), ".txt")] = readLine(tb, p)
	}
	return lines
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); go test -update writes it anew\n%s", path, diff)
	}
}

func TestAccepted(t *testing.T) {
	for name, args := range cases(t, "accepted") {
		t.Run(name, func(t *testing.T) {
			var text [2]string
			for i, place := range []cmdline.Placement{first(), second()} {
				line, err := cmdline.Rewrite(args, facts(t, args), place)
				if err != nil {
					t.Fatal(err)
				}
				text[i] = strings.ReplaceAll(render(line), place.Dir, "{dir}")
			}
			golden(t, "testdata/accepted/"+name+".golden", text[0]+"\nthe next generation has besides:\n"+besides(text[0], text[1]))
		})
	}
}

// render writes a line so that a person can read it: kept arguments as they are, with + added, ~ changed, - dropped.
func render(l *cmdline.Line) string {
	b := &strings.Builder{}
	for _, a := range l.Args {
		switch {
		case a.Dropped:
			fmt.Fprintf(b, "- %s\n", a.Was)
		case a.Was != "":
			fmt.Fprintf(b, "~ %s\n    was %s\n", a.Value, a.Was)
		case a.Why != "":
			fmt.Fprintf(b, "+ %s\n", a.Value)
		default:
			fmt.Fprintf(b, "  %s\n", a.Value)
		}
		if a.Why != "" {
			fmt.Fprintf(b, "    # %s\n", a.Why)
		}
	}
	for _, r := range l.Regions {
		fmt.Fprintf(b, "region %+v\n", r)
	}
	for _, n := range l.Names {
		fmt.Fprintf(b, "name %s %s -> %s\n", n.Kind, n.Public, n.Path)
	}
	for _, c := range l.Consoles {
		fmt.Fprintf(b, "console %s %s %s\n", c.ID, c.Input, c.Log)
	}
	for _, w := range l.Warnings {
		fmt.Fprintf(b, "warning %s\n", w)
	}
	fmt.Fprintf(b, "monitor %s\npaused %v\n", l.Monitor, l.Paused)
	return b.String()
}

// besides are the lines of b that a does not have.
func besides(a, b string) string {
	has := map[string]bool{}
	for line := range strings.Lines(a) {
		has[line] = true
	}
	var rest strings.Builder
	for line := range strings.Lines(b) {
		if !has[line] {
			rest.WriteString(line)
		}
	}
	return rest.String()
}

func problem(err error) string {
	p := vmstate.ProblemOf(err)
	return fmt.Sprintf("%s\n%s\n-> %s\n", p.Kind(), p.Detail, p.Remedy)
}

package cmdline_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/internal/qmp"
)

// notByItself are lines that QEMU 7.2 cannot start alone, and why.
func notByItself() map[string]string {
	return map[string]string{
		"monitors":    "it waits for somebody to connect",
		"new-options": "it has an option of later versions",
	}
}

// TestSameHardware compares the guest's devices and RAM with those that QEMU makes of the line as the user wrote it.
func TestSameHardware(t *testing.T) {
	e := locate(t)
	b := binary(t, e, env.Installed)
	info := probe(t, b)
	paths, err := filepath.Glob(lines + "/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no command lines in %s: %v", lines, err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		if notByItself()[name] != "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := tempDir(t, e)
			args := readLine(t, path, dir)
			facts, err := qemu.Learn(args, dir, info)
			if err != nil {
				t.Fatal(err)
			}
			place := cmdline.Placement{Dir: filepath.Join(dir, "0"), Version: info.Version}
			line, err := cmdline.Rewrite(args, facts, place)
			if err != nil {
				t.Fatal(err)
			}
			if err := qemu.MakePlaces(place.Dir, line, nil); err != nil {
				t.Fatal(err)
			}
			ours := run(t, b, line.Argv(), makeRAM(t, line.Regions), dir, filepath.Join(place.Dir, "log"))
			got := hardware(t, dial(t, ours, line.Monitor))
			end(t, ours)

			alone := append(slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "-daemonize" }),
				"-S", "-qmp", "unix:"+dir+"/alone,server=on,wait=off")
			if !slices.ContainsFunc(args, func(a string) bool { return strings.HasSuffix(a, "-display") || a == "-vnc" || a == "-nographic" }) {
				alone = append(alone, "-display", "none")
			}
			theirs := run(t, b, alone, nil, dir, filepath.Join(dir, "log"))
			want := hardware(t, dial(t, theirs, dir+"/alone"))
			if !slices.Equal(got, want) {
				t.Errorf("the guest's hardware differs:\nqlive makes  %q\nthe user said %q", missing(got, want), missing(want, got))
			}
		})
	}
}

var device = regexp.MustCompile(`^ *(bus: |dev: |addr = |class |bar )`)

// hardware describes what the guest sees: the tree of devices without their back ends, and all RAM.
func hardware(t *testing.T, m *qmp.Client) []string {
	t.Helper()
	tree, err := m.HumanMonitorCommand(t.Context(), "info qtree")
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(tree) {
		if device.MatchString(line) {
			list = append(list, strings.TrimRight(line, "\r\n"))
		}
	}
	blocks, err := m.QueryRAMBlocks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 || len(blocks) == 0 {
		t.Fatalf("no devices in %q", tree)
	}
	return append(list, describe(blocks)...)
}

// missing are the lines of a that b does not have.
func missing(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

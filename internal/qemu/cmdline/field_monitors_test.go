package cmdline_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"qlive/internal/qemu/cmdline"
)

// What adoption reads from the lines of the field: the monitors that it could take, and the devices by which it knows those that were
// plugged in later.
func TestFieldForAdoption(t *testing.T) {
	var text strings.Builder
	all := cases(t, "field")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		args, err := cmdline.Inline(all[name], field(t, name, all[name]))
		if err != nil {
			t.Fatal(err)
		}
		binary, rest := cmdline.Command(append([]string{"/usr/bin/qemu-system-x86_64"}, all[name]...))
		if binary != "/usr/bin/qemu-system-x86_64" || !slices.Equal(rest, all[name]) {
			t.Errorf("%s is taken apart as %q %q", name, binary, rest)
		}
		paths, others := cmdline.Monitors(args)
		ids := slices.Sorted(maps.Keys(cmdline.Devices(args)))
		fmt.Fprintf(&text, "%s\n  QMP at: %s; other monitors: %d\n  devices: %s\n", name, strings.Join(paths, " "), others, strings.Join(ids, " "))
	}
	golden(t, "testdata/field/adoption.golden", text.String())
}

package cmdline_test

import (
	be "encoding/binary" // binary is a QEMU here
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qlive/integration/env"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/internal/qmp"
)

// smallKernel is what QEMU takes for a Linux kernel (boot protocol 2.6, one sector of set-up code), and can load.
func smallKernel() []byte {
	k := make([]byte, 64<<10)
	k[0x1f1] = 1
	copy(k[0x202:], "HdrS\x06\x02")
	k[0x211] = 1 // LOADED_HIGH
	return k
}

// TestFirmwareFiles compares the files that each version has for a guest's firmware, in the machine as qlive makes it. Firmware that has
// read the list of one QEMU goes on by its numbers in the next.
func TestFirmwareFiles(t *testing.T) {
	e := locate(t)
	for name, args := range map[string][]string{
		"kernel": {"-machine", "pc-q35-7.2", "-kernel", e.Kernel, "-append", "quiet", "-device", "VGA"},
		"i440fx": {"-machine", "pc-i440fx-7.2", "-smp", "2", "-kernel", "kernel,v1", "-device", "virtio-net-pci"},
		"disk":   {"-machine", "pc-q35-7.2", "-smp", "2", "-drive", "file=disk.img,format=raw", "-boot", "menu=on"},
	} {
		t.Run(name, func(t *testing.T) {
			args = append([]string{"-accel", "tcg", "-cpu", "qemu64", "-m", "128", "-nodefaults", "-display", "none"}, args...)
			oldest := probe(t, binary(t, e, env.Installed))
			dir := tempDir(t, e)
			facts, err := qemu.Learn(args, dir, oldest)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for i, version := range env.Versions() {
				got := firmwareFiles(t, e, version, args, facts, dir, i)
				if i == 0 {
					want = got
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("QEMU %s has other files for the firmware than %s (-want +got):\n%s", version, env.Installed, diff)
				}
			}
		})
	}
}

// firmwareFiles starts one generation of a line and lists its files: number, size and name of each.
func firmwareFiles(t *testing.T, e env.Env, version string, args []string, facts cmdline.Facts, dir string, generation int) []string {
	t.Helper()
	b := binary(t, e, version)
	place := cmdline.Placement{Dir: filepath.Join(dir, fmt.Sprint(generation)), Incoming: generation > 0, Version: probe(t, b).Version}
	line, err := cmdline.Rewrite(args, facts, place)
	if err != nil {
		t.Fatal(err)
	}
	if err := qemu.MakePlaces(place.Dir, line, nil); err != nil {
		t.Fatal(err)
	}
	p := run(t, b, line.Argv(), makeRAM(t, line.Regions), dir, filepath.Join(place.Dir, "qemu.log"))
	defer end(t, p)
	return directory(t, dial(t, p, line.Monitor))
}

// directory reads what the firmware reads: the fw_cfg device's list of files (docs/specs/fw_cfg.rst of QEMU), by its two ports.
func directory(t *testing.T, m *qmp.Client) []string {
	t.Helper()
	const selector, data, list = 0x510, 0x511, 0x19
	human := func(format string, args ...any) qmp.Command {
		return qmp.Command{Name: "human-monitor-command", Args: map[string]string{"command-line": fmt.Sprintf(format, args...)}}
	}
	read := func(n uint32, before ...qmp.Command) []byte {
		commands := append(before, slices.Repeat([]qmp.Command{human("i /b %#x", data)}, int(n))...)
		calls, err := m.StartAll(t.Context(), commands...)
		if err != nil {
			t.Fatal(err)
		}
		var b []byte
		for i, call := range calls {
			var text string
			if err := call.Wait(t.Context(), &text); err != nil {
				t.Fatal(err)
			}
			if i < len(before) {
				continue
			}
			_, value, _ := strings.Cut(strings.TrimSpace(text), " = ") // portb[0x0511] = 0x51
			n, err := strconv.ParseUint(value, 0, 8)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			b = append(b, byte(n))
		}
		return b
	}
	var files []string
	for range number(read(4, human("o /h %#x %#x", selector, list))) {
		f := read(64)
		files = append(files, fmt.Sprintf("%#x %d %s", be.BigEndian.Uint16(f[4:]), number(f), strings.TrimRight(string(f[8:]), "\x00")))
	}
	return files
}

func number(b []byte) uint32 { return be.BigEndian.Uint32(b) }

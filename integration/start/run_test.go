package start_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// shell is where a person sits: a program, a daemon that it talks to, a working directory.
type shell struct {
	*lab.Lab
	path string
}

// run runs the command with its arguments.
func (s shell) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), s.path, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = &out, &errs, s.Dir
	cmd.Env = []string{"QLIVE_SOCKET=" + s.Socket, "PATH=" + filepath.Dir(s.Env.QEMU(env.Installed))}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), 0
}

// must runs the command, which must succeed.
func (s shell) must(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, code := s.run(t, args...)
	if code != 0 {
		t.Fatalf("qlive %q: exit code %d\n%s%s", args, code, out, errs)
	}
	return out
}

// A line is started from the shell as it would be without qlive: found in the PATH, relative to the working directory, with what it says of
// memory or with what qlive is told of it.
func TestRun(t *testing.T) {
	wantPool(t, 64)
	l := lab.New(t, lab.Options{})
	sh := shell{l, lab.BuildProgram(t, "test")}
	t.Run("refused", func(t *testing.T) { runRefused(t, sh) })
	huge := hugetlbfs(t, "pagesize=2M")
	if err := os.WriteFile(filepath.Join(l.Dir, "disk"), make([]byte, mib), 0o600); err != nil {
		t.Fatal(err)
	}
	line := append([]string{"--", "qemu-system-x86_64"}, machineArgs("-m", "64", "-pidfile", "vm.pid", "-drive", "file=disk,format=raw,if=virtio")...)
	for _, tt := range []struct {
		name  string
		flags []string
		want  vmstate.Region
	}{
		{"vm-plain", nil, vmstate.Region{Name: "pc.ram", SizeBytes: 64 * mib}},
		{"vm-huge", []string{"--hugepages", "2M"}, vmstate.Region{Name: "pc.ram", SizeBytes: 64 * mib, Backing: vmstate.Hugetlb, PageBytes: 2 * mib}},
		{"vm-file", []string{"--hugetlbfs", huge}, vmstate.Region{Name: "pc.ram", SizeBytes: 64 * mib, Backing: vmstate.Hugetlbfs, PageBytes: 2 * mib}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer remove(t, l, tt.name) // if it does not come so far
			sh.must(t, slices.Concat([]string{"run", tt.name}, tt.flags, line)...)
			vm, err := l.Client.VM(t.Context(), tt.name)
			if err != nil {
				t.Fatal(err)
			}
			checkRAM(t, vm, []vmstate.Region{tt.want})
			pid, err := os.ReadFile(filepath.Join(l.Dir, "vm.pid"))
			if err != nil || strings.TrimSpace(string(pid)) != fmt.Sprint(vm.PID) {
				t.Errorf("the pidfile says %q, %v", pid, err)
			}
			shown := sh.must(t, "show", tt.name, "--argv")
			for _, want := range []string{"file=disk,format=raw,if=virtio", "vm.pid", argv(t, vm, "-pidfile").Value, argv(t, vm, "vm.pid").Why, "-S", argv(t, vm, "-S").Why} {
				if !strings.Contains(shown, want) {
					t.Errorf("show --argv does not say %q:\n%s", want, shown)
				}
			}
			var same vmstate.VM
			if err := json.Unmarshal([]byte(sh.must(t, "-o", "json", "show", tt.name)), &same); err != nil || same.PID != vm.PID || len(same.Argv) != len(vm.Argv) {
				t.Errorf("show -o json: %v, %+v", err, same)
			}
			sh.must(t, "migrate", tt.name, "--to", l.Env.QEMU(env.Newest))
			if got := l.Cat(tt.name, "qemu_version"); got != env.Newest {
				t.Errorf("QEMU %s has the guest", got)
			}
			sh.must(t, "rm", "--force", tt.name)
		})
	}
}

// runRefused: what is refused is refused with the daemon's sentence and remedy, and an exit code that tells.
func runRefused(t *testing.T, sh shell) {
	l := sh.Lab
	for _, tt := range []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"a port", []string{"run", "vm1", "--", l.Env.QEMU(env.Installed), "-m", "64", "-gdb", "tcp::1234"}, vmstate.Unsupported.Info().Exit, []string{"-gdb tcp::1234", "gdbserver"}},
		{"no such binary", []string{"run", "vm1", "--", "/no/such/qemu", "-m", "64"}, vmstate.NotFound.Info().Exit, []string{"/no/such/qemu"}},
		{"no name", []string{"run", "..", "--", l.Env.QEMU(env.Installed)}, vmstate.Invalid.Info().Exit, []string{`".."`}},
		{"too few huge pages", []string{"run", "vm1", "--hugepages", "2M", "--", l.Env.QEMU(env.Installed), "-m", "1048576"}, vmstate.Exhausted.Info().Exit, []string{"524288 huge pages", "vm.nr_hugepages="}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := look(t, l)
			out, errs, code := sh.run(t, tt.args...)
			if code != tt.code || out != "" {
				t.Errorf("exit code %d, want %d; stdout %q, stderr %q", code, tt.code, out, errs)
			}
			for _, s := range tt.says {
				if !strings.Contains(errs, s) {
					t.Errorf("%q is not said in %q", s, errs)
				}
			}
			if after := look(t, l); after != before {
				t.Errorf("something is left: %+v, before %+v", after, before)
			}
		})
	}
}

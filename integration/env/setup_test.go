package env

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// setup runs scripts/setup with a cache, as the shell script says to, and gives what it printed and its exit code.
func setup(t *testing.T, cache, script string, args ...string) (string, int) {
	t.Helper()
	program, err := filepath.Abs("../../scripts/setup")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", append([]string{"--mount", "sh", "-c", script, "sh", program}, args...)...)
	cmd.Env = append(os.Environ(), "QLIVE_CACHE="+cache)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// found gives the cache of this machine, which set-up has filled.
func found(t *testing.T) Env {
	t.Helper()
	e, err := Locate()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// steps are the progress lines, by what they say has become of a step.
func steps(text string) map[string]int {
	count := map[string]int{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "setup:" {
			count[f[len(f)-1]]++
		}
	}
	return count
}

// Set-up that has nothing to do says so, step by step, and does nothing.
func TestSetupAgain(t *testing.T) {
	e := found(t)
	before, err := os.Stat(e.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	text, code := setup(t, e.Cache, `exec "$@"`, "test")
	if got := steps(text); code != 0 || got["there"] != 7 || got["s"]+got["FAILED"] > 0 {
		t.Errorf("exit %d:\n%s", code, text)
	}
	if after, err := os.Stat(e.Kernel); err != nil || !os.SameFile(before, after) {
		t.Errorf("the kernel is another file now, %v", err)
	}
}

// On another host it says what the host lacks, and where to put it.
func TestSetupElsewhere(t *testing.T) {
	other := filepath.Join(t.TempDir(), "os-release")
	write(t, other, "ID=ubuntu\nVERSION_ID=\"24.04\"\n", 0o644)
	text, code := setup(t, t.TempDir(), "mount --bind "+other+` /etc/os-release && exec "$@"`, "demo")
	if code != 1 {
		t.Errorf("exit %d", code)
	}
	for _, want := range []string{"this is not Debian 12 but: ubuntu 24.04", "missing:\n    guest kernel\n", "by hand", "kernel/vmlinuz", "qemu/VERSION/qemu-system-x86_64", "QLIVE_CACHE="} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
}

// Where the archives of the other releases cannot be reached the demonstration makes do with one QEMU, and the tests fail.
func TestSetupOutOfReach(t *testing.T) {
	e := found(t)
	cache, bin := t.TempDir(), t.TempDir()
	for name, target := range map[string]string{"kernel": filepath.Join(e.Cache, "kernel"), "go": filepath.Join(e.Cache, "go")} {
		if err := os.Symlink(target, filepath.Join(cache, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(bin, "apt-get"), "#!/bin/sh\necho 'E: the archive is out of reach' >&2\nexit 100\n", 0o755)
	for _, test := range []struct {
		purpose string
		code    int
		want    string
	}{
		{"demo", 0, "only QEMU 7.2.22 is available: the demo will hand its guest to a second instance of it"},
		{"test", 1, "missing:\n    QEMU 10.0.2, bookworm-backports\n    QEMU 10.0.13, trixie\n    QEMU 11.1.3, trixie-backports\n"},
	} {
		t.Run(test.purpose, func(t *testing.T) {
			text, code := setup(t, cache, "PATH="+bin+`:$PATH exec "$@"`, test.purpose)
			if code != test.code || !strings.Contains(text, test.want) || !strings.Contains(text, "E: the archive is out of reach") {
				t.Errorf("exit %d, want %d with %q:\n%s", code, test.code, test.want, text)
			}
			if got := steps(text); got["there"]+got["s"] != 4 || got["FAILED"] != 3 {
				t.Errorf("the steps ended %v:\n%s", got, text)
			}
		})
	}
}

package adopt_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"qlive/integration/guest"
	"qlive/integration/lab"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stranger is a QEMU that somebody else has started.
type stranger struct {
	t       *testing.T
	l       *lab.Lab
	cmd     *exec.Cmd
	ended   chan struct{}
	dir     string
	monitor string
	console string
}

// start starts a QEMU of a version with a plain command line, its console in a file. It is gone when the test ends.
func start(t *testing.T, l *lab.Lab, version string, args ...string) *stranger {
	t.Helper()
	return startAs(t, l, nil, version, args...)
}

// startAs starts it as a user; nil for root.
func startAs(t *testing.T, l *lab.Lab, user *syscall.Credential, version string, args ...string) *stranger {
	t.Helper()
	dir, err := os.MkdirTemp("", "qlive-stranger-")
	if err != nil {
		t.Fatal(err)
	}
	s := &stranger{t: t, l: l, dir: dir, monitor: filepath.Join(dir, "qmp"), console: filepath.Join(dir, "console"), ended: make(chan struct{})}
	line := append([]string{"-accel", "tcg", "-cpu", "qemu64", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "file:" + s.console}, args...)
	s.cmd = exec.Command(l.Env.QEMU(version), line...)
	s.cmd.Dir, s.cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), theirs}
	if user != nil {
		s.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
		if err := os.Chown(dir, int(user.Uid), int(user.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	var said bytes.Buffer
	s.cmd.Stderr = &said
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = s.cmd.Wait() // it is killed, by the test or by a handoff
		close(s.ended)
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // likewise
		<-s.ended
		if t.Failed() {
			t.Logf("the stranger's QEMU said: %s", said.String())
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *stranger) pid() int { return s.cmd.Process.Pid }

// small is what a guest verifies quickly, again and again.
func small() guest.Params { return guest.Params{FillMiB: 16, DirtyMiB: 2, VerifySecs: 1} }

// linux are the arguments of a guest that tells the truth.
func linux(l *lab.Lab, more ...string) []string {
	return append([]string{"-qmp", "unix:qmp,server=on,wait=off", "-kernel", l.Env.Kernel, "-initrd", l.Initrd, "-append", guest.Append(small())}, more...)
}

// firmware are those of one that sits in its firmware.
func firmware(more ...string) []string {
	return append([]string{"-qmp", "unix:qmp,server=on,wait=off", "-machine", "pc-q35-7.2", "-m", "64"}, more...)
}

// awaitTruth waits for n more beats and one more verification, see [lab.Lab.AwaitTruth].
func (s *stranger) awaitTruth(n uint64) {
	s.t.Helper()
	s.l.AwaitTruth(s.t, s.console, n)
}

// up waits until the QEMU has its monitor.
func (s *stranger) up() *stranger {
	s.t.Helper()
	s.l.Eventually("the monitor is there", func() error {
		_, err := os.Lstat(s.monitor)
		return err
	})
	return s
}

// ask asks the QEMU itself, and lets go of its monitor again.
func (s *stranger) ask(do func(context.Context, *qmp.Client) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), lab.Limit)
	defer cancel()
	c, err := qmp.Dial(ctx, s.monitor, qmp.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if err := do(ctx, c); err != nil {
		s.t.Fatal(err)
	}
}

// adopt takes over a stranger's QEMU.
func (s *stranger) adopt(name string, change ...func(*vmstate.AdoptSpec)) vmstate.VM {
	s.t.Helper()
	ask := vmstate.AdoptSpec{PID: s.pid(), QMP: s.monitor}
	for _, f := range change {
		f(&ask)
	}
	vm, err := s.l.Client.StartVM(s.t.Context(), vmstate.VMSpec{Name: name, Adopt: &ask})
	if err != nil {
		s.t.Fatalf("adopting process %d: %v", s.pid(), err)
	}
	return vm
}

// handOver hands an adopted VM over; it must succeed.
func (s *stranger) handOver(spec vmstate.MigrationSpec) vmstate.Migration {
	s.t.Helper()
	m := s.migrate(spec)
	if m.Phase != vmstate.Completed {
		s.t.Fatalf("handing over to %s: %s: %+v\nlog: %+v", spec.Binary, m.Phase, m.Error, m.Log)
	}
	return m
}

func (s *stranger) migrate(spec vmstate.MigrationSpec) vmstate.Migration {
	s.t.Helper()
	m, err := s.l.Client.Migrate(s.t.Context(), spec, "")
	if err == nil {
		m, err = s.l.Client.Migration(s.t.Context(), m.ID, lab.Limit)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// refused checks a refusal: its kind, what it says, and that it says what to do.
func refused(t *testing.T, err error, kind vmstate.Kind, says string) {
	t.Helper()
	p := vmstate.ProblemOf(err)
	if err == nil || vmstate.KindOf(err) != kind || !strings.Contains(p.Detail, says) || p.Remedy == "" {
		t.Errorf("the refusal is %s: %v; remedy %q; want %s, %q", vmstate.KindOf(err), err, p.Remedy, kind, says)
	}
}

// ram makes a file of the guest's RAM on tmpfs.
func ram(t *testing.T, bytes int64) string {
	t.Helper()
	f, err := os.CreateTemp("/dev/shm", "qlive-adopt-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(f.Name()) })
	defer f.Close()
	if err := f.Truncate(bytes); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

const mib = 1 << 20

func itoa(n int) string { return strconv.Itoa(n) }

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// read is what a file in the stranger's folder says.
func (s *stranger) read(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

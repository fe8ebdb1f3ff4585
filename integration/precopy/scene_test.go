package precopy_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"qlive/integration/guest"
	"qlive/integration/guest/beats"
	"qlive/integration/lab"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mib = 1 << 20

// stranger is a QEMU that somebody else has started, whose guest becomes vm1. It has a second monitor, which is not qlive's.
type stranger struct {
	t     *testing.T
	l     *lab.Lab
	cmd   *exec.Cmd
	ended chan struct{}
	dir   string
}

// start starts a QEMU of a version, its console in a file. It is gone when the test ends.
func start(t *testing.T, l *lab.Lab, version string, args ...string) *stranger {
	t.Helper()
	dir, err := os.MkdirTemp("", "qlive-stranger-")
	if err != nil {
		t.Fatal(err)
	}
	s := &stranger{t: t, l: l, dir: dir, ended: make(chan struct{})}
	s.cmd = exec.Command(l.Env.QEMU(version), append([]string{"-accel", "tcg", "-cpu", "qemu64", "-machine", "pc-q35-7.2", "-nodefaults", "-no-user-config", "-display", "none",
		"-serial", "file:" + s.path("console"), "-qmp", "unix:qmp,server=on,wait=off", "-qmp", "unix:own,server=on,wait=off"}, args...)...)
	s.cmd.Dir = dir
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
	l.Eventually("the monitors are there", func() error {
		_, err := os.Lstat(s.path("own"))
		return err
	})
	return s
}

// linux are the arguments of a guest that tells the truth, and changes its memory all the time.
func linux(l *lab.Lab, more ...string) []string {
	p := guest.Params{FillMiB: 24, DirtyMiB: 4, DirtyPPS: 2000, VerifySecs: 1}
	return append([]string{"-m", "256", "-kernel", l.Env.Kernel, "-initrd", l.Initrd, "-append", guest.Append(p)}, more...)
}

func (s *stranger) path(name string) string { return filepath.Join(s.dir, name) }
func (s *stranger) pid() int                { return s.cmd.Process.Pid }

// adopt takes it over.
func (s *stranger) adopt() *vmstate.Adoption {
	s.t.Helper()
	vm, err := s.l.Client.StartVM(s.t.Context(), vmstate.VMSpec{Name: "vm1", Adopt: &vmstate.AdoptSpec{PID: s.pid(), QMP: s.path("qmp")}})
	if err != nil {
		s.t.Fatal(err)
	}
	return vm.Adoption
}

// own asks the QEMU by the monitor that is not qlive's.
func (s *stranger) own(do func(context.Context, *qmp.Client) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.Limit)
	defer cancel()
	c, err := qmp.Dial(ctx, s.path("own"), qmp.Options{})
	if err == nil {
		err = do(ctx, c)
		c.Close()
	}
	if err != nil {
		s.t.Error(err)
	}
}

// bandwidth limits its migration to so many bytes a second, even while one is under way; 0 for no limit.
func (s *stranger) bandwidth(bytes int64) {
	s.t.Helper()
	s.own(func(ctx context.Context, c *qmp.Client) error {
		return c.MigrateSetParameters(ctx, qmp.MigrateParameters{MaxBandwidth: &bytes})
	})
}

func (s *stranger) report() beats.Report {
	s.t.Helper()
	return lab.Said(s.t, s.path("console"))
}

// awaitTruth waits for n more beats and one more verification, see [lab.Lab.AwaitTruth].
func (s *stranger) awaitTruth(n uint64) {
	s.t.Helper()
	s.l.AwaitTruth(s.t, s.path("console"), n)
}

// awaitBeats waits until the guest has beaten n times more.
func (s *stranger) awaitBeats(n uint64) {
	s.t.Helper()
	want := s.report().Beats + n
	s.l.Eventually("the guest beats", func() error {
		if r := s.report(); r.Beats < want {
			return fmt.Errorf("%d of %d beats", r.Beats, want)
		}
		return nil
	})
}

// ask asks for a handoff by precopy.
func ask(t *testing.T, l *lab.Lab, version string, change ...func(*vmstate.MigrationSpec)) vmstate.Migration {
	t.Helper()
	spec := vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(version), Mode: vmstate.ModePrecopy, MaxPauseMS: 20_000} // machines are busy
	for _, f := range change {
		f(&spec)
	}
	m, err := l.Client.Migrate(t.Context(), spec, "")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// ends waits for the end of a migration, which must be as it should.
func ends(t *testing.T, l *lab.Lab, id string, phase vmstate.Phase, says string) vmstate.Migration {
	t.Helper()
	m, err := l.Client.Migration(t.Context(), id, lab.Limit)
	if err != nil {
		t.Fatal(err)
	}
	said := ""
	if m.Error != nil {
		said = m.Error.Detail + " " + m.Error.Remedy
	}
	if m.Phase != phase || !strings.Contains(said, says) {
		t.Fatalf("it is %s, wanted %s and %q: %+v\nlog: %+v", m.Phase, phase, says, m.Error, m.Log)
	}
	return m
}

package failures_test

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/lab"
	"qlive/internal/failpoint"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scene is a daemon with failpoints and a guest on which many handoffs are tried.
type scene struct {
	*lab.Lab
	vm     *lab.VM
	points *failpoint.Set
	bin    string // folder for binaries that are no good
	sector bool   // the guest is the one of one sector
}

// small is what a guest verifies quickly.
func small() guest.Params { return guest.Params{FillMiB: 16, DirtyMiB: 2, VerifySecs: -1} }

// newScene starts a daemon; the guest is still to be started. Binaries are admitted where the set-up has them and in the
// scene's own folder.
func newScene(t *testing.T) *scene {
	t.Helper()
	points, err := failpoint.New("")
	if err != nil {
		t.Fatal(err)
	}
	e, err := env.Locate()
	if err != nil {
		t.Fatal(err)
	}
	bin, err := os.MkdirTemp("", "qlive-bin-") // every folder on the way must be root's: not t.TempDir, whose mode is the umask's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(bin) })
	l := lab.New(t, lab.Options{
		Failpoints: points, MonitorLimit: 8 * time.Second, ReadFiles: true,
		Allowed: []string{e.Cache + "/qemu/*/qemu-system-x86_64", bin + "/*"},
	})
	s := &scene{Lab: l, points: points, bin: bin}
	t.Cleanup(func() {
		if t.Failed() {
			s.showMonitors(t)
		}
	})
	return s
}

// showMonitors prints what was last said over the monitors.
func (s *scene) showMonitors(t *testing.T) {
	logs, _ := filepath.Glob(filepath.Join(s.Dir, "run/vms/*/*/qmp.log")) // the pattern is right
	for _, path := range logs {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		lines := strings.SplitAfter(string(text), "\n")
		t.Logf("%s:\n%s", path, strings.Join(lines[max(0, len(lines)-40):], ""))
	}
}

// boot starts the scene's guest, and waits until it beats.
func (s *scene) boot(spec lab.Spec) {
	if spec.Guest.FillMiB == 0 {
		spec.Guest = small()
	}
	s.vm = s.Boot(spec)
}

// within is a context for a wait of the test.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lab.Limit)
	t.Cleanup(cancel)
	return ctx
}

// ask asks for a handoff and returns what REST answers. Where the test says nothing else the pause may be long: hosts are busy.
func (s *scene) ask(t *testing.T, spec vmstate.MigrationSpec) (vmstate.Migration, error) {
	t.Helper()
	spec.VM, spec.MaxPauseMS = s.vm.Name, cmp.Or(spec.MaxPauseMS, 20_000)
	return s.Client.Migrate(t.Context(), spec, "")
}

// begin asks for a handoff that must be accepted.
func (s *scene) begin(t *testing.T, spec vmstate.MigrationSpec) vmstate.Migration {
	t.Helper()
	m, err := s.ask(t, spec)
	if err != nil {
		t.Fatalf("asking for a migration: %v", err)
	}
	return m
}

// reach waits until a migration is in a phase.
func (s *scene) reach(t *testing.T, id string, phase vmstate.Phase) vmstate.Migration {
	t.Helper()
	var m vmstate.Migration
	s.Eventually("the migration is "+string(phase), func() (err error) {
		m, err = s.Client.Migration(t.Context(), id, 0)
		if err == nil && m.Phase != phase {
			if m.Phase.Ended() {
				t.Fatalf("migration %s is %s, wanted %s: %+v", id, m.Phase, phase, m.Error)
			}
			err = fmt.Errorf("it is %s", m.Phase)
		}
		return err
	})
	return m
}

// atPoint waits until a failpoint has been reached once more than before.
func (s *scene) atPoint(t *testing.T, name string, before int) {
	t.Helper()
	if err := s.points.Await(within(t), name, before+1); err != nil {
		t.Fatal(err)
	}
}

// want is what must be said of a handoff that was undone.
type want struct {
	end   vmstate.Phase // rolled_back if empty
	kind  vmstate.Kind  // of the problem
	step  string
	says  string // part of the detail
	words string // part of what QEMU says; empty if it has nothing to say
}

// anyStep is for what may be noticed at one step or the next.
const anyStep = "any"

// check compares how a handoff ended with what is wanted.
func (w want) check(t *testing.T, m vmstate.Migration) {
	t.Helper()
	if w.end == "" {
		w.end = vmstate.RolledBack
	}
	if m.Phase != w.end {
		t.Errorf("the migration is %s, want %s: %+v", m.Phase, w.end, m.Error)
	}
	if m.Error == nil {
		t.Error("no problem says why")
		return
	}
	p := m.Error
	if p.Migration != m.ID || p.VM != m.VM || p.Instance != "/migrations/"+m.ID {
		t.Errorf("the problem is of migration %q, VM %q, %q", p.Migration, p.VM, p.Instance)
	}
	w.problem(t, p)
}

func (w want) problem(t *testing.T, p *vmstate.Problem) {
	t.Helper()
	said := strings.Join(p.QEMU, "\n")
	if w.step == anyStep && p.Step != "" {
		w.step = p.Step
	}
	if p.Kind() != w.kind || p.Step != w.step || !strings.Contains(p.Detail, w.says) || !strings.Contains(said, w.words) {
		t.Errorf("the problem is %+v,\nwant %+v", p, w)
	}
	if p.Remedy == "" || p.Detail == "" || strings.Contains(p.Detail, "context canceled") || strings.Contains(p.Detail, "context deadline") {
		t.Errorf("the problem helps nobody: %+v", p)
	}
	if w.words == "" && len(p.QEMU) > 0 {
		t.Logf("QEMU's words, not asked for: %q", p.QEMU)
	}
}

// undone tries a handoff that must be undone, and makes sure that it left no trace.
func (s *scene) undone(t *testing.T, spec vmstate.MigrationSpec, w want) vmstate.Migration {
	t.Helper()
	before := s.look(t)
	m := s.vm.Wait(s.begin(t, spec).ID)
	w.check(t, m)
	s.same(t, before)
	s.owned(t)
	return m
}

// same makes sure that the guest goes on as it was, in the same QEMU, and that nothing else has changed.
func (s *scene) same(t *testing.T, before inventory) {
	t.Helper()
	s.settle(t, before)
	switch runs := before.Status == vmstate.Running; {
	case s.sector && runs:
		s.listens(t)
	case s.sector:
		return
	case runs:
		s.vm.AwaitBeats(20)
	}
	if r := s.vm.Report(); r.Beats > 0 || before.Status == vmstate.Running {
		if err := r.Check(); err != nil {
			t.Error(err)
		}
	}
}

// settle waits until everything is as it was.
func (s *scene) settle(t *testing.T, before inventory) {
	t.Helper()
	deadline := time.Now().Add(lab.Limit)
	for {
		changed := diff.Diff(before, s.look(t).noFewer(before))
		if changed == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s later it is not as it was (-before +after):\n%s", lab.Limit, changed)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// works makes sure that a handoff by this way succeeds, and that the guest's memory is intact.
func (s *scene) works(t *testing.T, version string, way vmstate.Way) vmstate.Migration {
	t.Helper()
	m := s.vm.Wait(s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(version), Way: way}).ID)
	if m.Phase != vmstate.Completed {
		t.Fatalf("handing over to %s by %s: %s: %+v\n%+v", version, way, m.Phase, m.Error, m.Log)
	}
	s.vm.CheckMemory()
	return m
}

// script writes a shell script to use as a binary. QEMU stands for the QEMU of that version in it, and what is behind
// INCOMING is done only by a target, not by the QEMU that is asked what it is.
func (s *scene) script(t *testing.T, name, version, text string) string {
	t.Helper()
	text = strings.NewReplacer(
		"QEMU", "exec "+s.Env.QEMU(version),
		"INCOMING", `case " $* " in *" -incoming "*) ;; *) exec `+s.Env.QEMU(version)+` "$@";; esac`,
	).Replace(text)
	return s.file(t, name, "#!/bin/sh\n"+text+"\n", 0o755)
}

func (s *scene) file(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	path := s.bin + "/" + strings.ReplaceAll(name, " ", "-")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return path
}

// more is an error as long as there are no more processes than these.
func more(than []int) error {
	if now := children(); len(now) <= len(than) {
		return fmt.Errorf("there are only %v", now)
	}
	return nil
}

// signal sends a signal to a QEMU of this test.
func signal(pid int, sig unix.Signal) error {
	if pid <= 1 || !slices.Contains(children(), pid) {
		return fmt.Errorf("cannot signal %d: it is no child of this test", pid)
	}
	return unix.Kill(pid, sig)
}

// answered is an error as long as the guest has not answered so.
func (s *scene) answered(text string) error {
	for _, a := range s.vm.Report().Answers {
		if strings.Contains(a, text) {
			return nil
		}
	}
	return fmt.Errorf("it has answered %q", s.vm.Report().Answers)
}

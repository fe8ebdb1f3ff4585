package faces_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/fsview/fstest"
	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// The tree of a live guest is as its page says, before a handoff, while one is held, and after it.
func TestTree(t *testing.T) {
	s := newScene(t)
	page, err := os.ReadFile("../../docs/tree.md")
	if err != nil {
		t.Fatal(err)
	}
	all := func(t *testing.T) {
		for _, c := range fstest.Cases() {
			t.Run(c.Name, func(t *testing.T) { c.Run(t, fstest.Target{Dir: s.Mount, VM: "vm1"}) })
		}
	}
	t.Run("started", all)
	m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Hold: true})
	s.reach(t, m.ID, vmstate.Prepared)
	t.Run("held", all)
	if _, err := s.Client.Continue(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	s.reach(t, m.ID, vmstate.Completed)
	t.Run("handed over", all)
	t.Run("page", func(t *testing.T) { fstest.CheckDoc(t, fstest.Target{Dir: s.Mount, VM: "vm1"}, string(page)) })
	s.vm.CheckMemory()
}

// A guest is handed over, held, cancelled, rolled back, paused and reset with echo and cat alone.
func TestCtl(t *testing.T) {
	s := newScene(t)
	newest, oldest := s.Env.QEMU(env.Newest), s.Env.QEMU(env.Installed)
	cat := func(path ...string) string { return s.Cat(append([]string{"vm1"}, path...)...) }
	until := func(want string, path ...string) {
		t.Helper()
		s.Eventually(strings.Join(path, "/")+" is "+want, func() error {
			if got := cat(path...); got != want {
				return fmt.Errorf("it is %s; error: %s", got, cat("migration", "error"))
			}
			return nil
		})
	}
	obey := func(command string) {
		t.Helper()
		if err := s.ctl(command); err != nil {
			t.Fatalf("%q: %v; %s", command, err, cat("migration", "error"))
		}
	}
	obey("migrate " + newest + "\n")
	until("completed", "migration", "phase")
	if cat("qemu_version") != env.Newest || cat("generation") != "1" || cat("migration", "error") != "none" {
		t.Errorf("after the migration: QEMU %s, generation %s, error %s", cat("qemu_version"), cat("generation"), cat("migration", "error"))
	}
	obey("rollback")
	until("completed", "migration", "phase")
	if cat("qemu_version") != env.Installed || cat("qemu_binary") != oldest || cat("generation") != "2" {
		t.Errorf("after the rollback: QEMU %s, generation %s", cat("qemu_version"), cat("generation"))
	}
	pid := cat("pid")
	obey("pause")
	until("paused", "status")
	obey("migrate") // to the VM's own binary; a paused guest stays so
	until("completed", "migration", "phase")
	if cat("pid") == pid || cat("status") != "paused" || cat("migration", "pause_us") != "none" {
		t.Errorf("after handing over the paused guest: pid %s (%s before), %s, pause %s", cat("pid"), pid, cat("status"), cat("migration", "pause_us"))
	}
	obey("resume")
	until("running", "status")
	s.vm.AwaitBeats(20)

	// continue and cancel
	m := s.begin(t, vmstate.MigrationSpec{Binary: newest, Hold: true})
	until("prepared", "migration", "phase")
	if cat("migration", "id") != m.ID {
		t.Errorf("the migration is %s, want %s", cat("migration", "id"), m.ID)
	}
	obey("continue")
	until("completed", "migration", "phase")
	m = s.begin(t, vmstate.MigrationSpec{Binary: oldest, Hold: true})
	until("prepared", "migration", "phase")
	obey("cancel")
	until("cancelled", "migration", "phase")
	if got := cat("migration", "error"); !strings.Contains(got, "cancelled") || cat("qemu_version") != env.Newest {
		t.Errorf("after cancelling: %q, QEMU %s", got, cat("qemu_version"))
	}
	s.vm.CheckMemory()
	obey("reset\n")
	s.vm.AwaitBoots(2)
	s.vm.CheckMemory()
}

// A command that is refused fails with the errno of its reason, which stands in migration/error with a remedy; and nothing happens.
func TestCtlRefused(t *testing.T) {
	s := newScene(t)
	foreign := s.Dir + "/foreign-qemu"
	if err := os.WriteFile(foreign, []byte("#!/bin/sh\n"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(foreign, 0o777); err != nil {
		t.Fatal(err)
	}
	before := s.vm.Show()
	check := func(t *testing.T, command string, want syscall.Errno, kind vmstate.Kind, says string) {
		t.Helper()
		if err := s.ctl(command); !errors.Is(err, want) {
			t.Errorf("%.60q: %v, want %v", command, err, want)
		}
		got := s.Cat("vm1", "migration", "error")
		for _, part := range []string{says, "kind: " + string(kind), "remedy: ", "refused: ", "at: 20"} {
			if !strings.Contains(got, part) {
				t.Errorf("%q is not said in %q", part, got)
			}
		}
	}
	for _, tt := range []struct {
		name, command string
		want          syscall.Errno
		kind          vmstate.Kind
		says          string
	}{
		{"rubbish", "dance\n", unix.EINVAL, vmstate.Invalid, "dance"},
		{"nothing", "\n", unix.EINVAL, vmstate.Invalid, "empty"},
		{"two lines", "pause\nresume\n", unix.EINVAL, vmstate.Invalid, "several lines"},
		{"no text", "pause\x00\xff", unix.EINVAL, vmstate.Invalid, "UTF-8"},
		{"far too long", "migrate /" + strings.Repeat("x", 5000), unix.EINVAL, vmstate.Invalid, "4096"},
		{"relative path", "migrate qemu-system-x86_64", unix.EINVAL, vmstate.Invalid, "absolute"},
		{"unknown binary", "migrate /no/such/qemu", unix.ENOENT, vmstate.NotFound, "/no/such/qemu"},
		{"not admitted", "migrate " + foreign, unix.EPERM, vmstate.Denied, foreign},
		{"nothing to cancel", "cancel", unix.EBUSY, vmstate.Conflict, "not being handed over"},
		{"nothing to continue", "continue", unix.EBUSY, vmstate.Conflict, "not being handed over"},
		{"nowhere to go back", "rollback", unix.EBUSY, vmstate.Conflict, "started in"},
	} {
		t.Run(tt.name, func(t *testing.T) { check(t, tt.command, tt.want, tt.kind, tt.says) })
	}
	m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Hold: true})
	s.reach(t, m.ID, vmstate.Prepared)
	t.Run("busy", func(t *testing.T) {
		check(t, "migrate "+s.Env.QEMU(env.Backport), unix.EBUSY, vmstate.Busy, m.ID)
	})
	if got := s.Cat("migrations", m.ID, "error"); got != "none" {
		t.Errorf("the refusal stands in the migration that runs as well: %q", got)
	}
	if err := s.ctl("cancel"); err != nil {
		t.Fatal(err)
	}
	s.reach(t, m.ID, vmstate.Aborted)
	t.Run("too late to cancel", func(t *testing.T) { check(t, "cancel", unix.EBUSY, vmstate.Conflict, "cancelled") })
	if after := s.vm.Show(); after.PID != before.PID || after.Status != vmstate.Running || after.Generation != 0 {
		t.Errorf("something has happened: %+v", after)
	}
	s.vm.CheckTruth()
}

// fileEvent is a line of the file events.
type fileEvent struct {
	Seq  uint64
	Type vmstate.EventType
	VM   string
	Data json.RawMessage
}

// catEvents lets cat read the file events: a process of its own, since this one serves the tree, and could not end while it reads there.
type catEvents struct {
	cmd  *exec.Cmd
	done chan error // why there are no more
	mu   sync.Mutex
	seen []fileEvent
}

func startCat(t *testing.T, path string) *catEvents {
	t.Helper()
	c := &catEvents{cmd: exec.CommandContext(t.Context(), "cat", path), done: make(chan error, 1)}
	pipe, err := c.cmd.StdoutPipe()
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() { c.done <- c.read(bufio.NewReaderSize(pipe, 1<<20)) }()
	return c
}

func (c *catEvents) read(r *bufio.Reader) error {
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return err
		}
		var e fileEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("%w in %.200s", err, line)
		}
		c.mu.Lock()
		c.seen = append(c.seen, e)
		c.mu.Unlock()
	}
}

// phases are those that were told of a migration, if the events tell a whole story so far: the state first, then one number after the other.
func (c *catEvents) phases(id string) (phases []vmstate.Phase, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, e := range c.seen {
		if i == 0 && e.Type != vmstate.EventReset || i > 0 && e.Seq != c.seen[i-1].Seq+1 {
			return nil, fmt.Errorf("event %d is %d, %s", i, e.Seq, e.Type)
		}
		var told vmstate.Migration
		if e.Type != vmstate.EventMigration {
			continue
		}
		if err := json.Unmarshal(e.Data, &told); err != nil {
			return nil, err
		}
		if told.ID == id && !slices.Contains(phases, told.Phase) {
			phases = append(phases, told.Phase)
		}
	}
	return phases, nil
}

// The file events waits, tells everything in order through a handoff, and lets its reader go.
func TestEventsFile(t *testing.T) {
	s := newScene(t)
	c := startCat(t, s.tree("events"))
	m := s.vm.HandOver(env.Newest, "")
	s.Eventually("the end has been told", func() error {
		phases, err := c.phases(m.ID)
		if err == nil && !slices.Contains(phases, vmstate.Completed) {
			err = fmt.Errorf("told are %v", phases)
		}
		return err
	})
	select {
	case err := <-c.done:
		t.Fatalf("the file has ended: %v", err)
	case <-time.After(20 * time.Millisecond): // it waits
	}
	quick(t, "ending cat", func() {
		if err := c.cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		<-c.done
		_ = c.cmd.Wait() // it was killed
	})
}

// The console and QEMU's log are one text each, over all generations, whichever way they are read.
func TestLogs(t *testing.T) {
	s := newScene(t)
	for _, version := range []string{env.Newest, env.Backport, env.Installed} {
		s.vm.HandOver(version, "")
		s.vm.AwaitBeats(20)
	}
	s.vm.Type("poweroff")
	s.Eventually("the VM has stopped", func() error {
		if got := s.Cat("vm1", "status"); got != "stopped" {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
	rest := s.ask(t, "GET", "/vms/vm1/console", "")
	tree, err := os.ReadFile(s.tree("vm1/console"))
	if err != nil || !bytes.Equal(tree, rest.body) {
		t.Errorf("the tree's console has %d bytes (%v), that of REST %d", len(tree), err, len(rest.body))
	}
	truth := s.vm.Report()
	if err := truth.Check(); err != nil || len(truth.Boots) != 1 || truth.Boots[0].Bye == nil {
		t.Errorf("the guest's own account: %v, %+v", err, truth)
	}
	if n := bytes.Count(tree, []byte("\n")); uint64(n) < truth.Beats {
		t.Errorf("%d lines for %d beats", n, truth.Beats)
	}
	// From any offset, as tail does.
	f, err := os.Open(s.tree("vm1/console"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	part := make([]byte, 1000)
	for _, off := range []int{0, 1, len(tree) / 2, len(tree) - 1000} {
		if _, err := f.ReadAt(part, int64(off)); err != nil || !bytes.Equal(part, tree[off:off+1000]) {
			t.Errorf("at %d: %v", off, err)
		}
	}
	if got := fstest.Output(t, "tail", "-c", "1000", s.tree("vm1/console")); got != string(tree[len(tree)-1000:]) {
		t.Errorf("tail shows %q", got)
	}
	if tail := s.ask(t, "GET", "/vms/vm1/console?tail=1000", ""); !bytes.Equal(tail.body, tree[len(tree)-1000:]) {
		t.Errorf("REST's tail is %q", tail.body)
	}
	log, err := os.ReadFile(s.tree("vm1/qemu_log"))
	if again := s.ask(t, "GET", "/vms/vm1/log", ""); err != nil || !bytes.Equal(log, again.body) {
		t.Errorf("QEMU's log is %q in the tree (%v), %q by REST", log, err, again.body)
	}
	s.Eventually("nothing of a QEMU is left in the tree", func() error {
		if pid, region := s.Cat("vm1", "pid"), s.tree("vm1/regions"); pid != "none" {
			return fmt.Errorf("pid is %s in %s", pid, region)
		}
		return nil
	})
}

// QEMU's own words are in its log, of whichever generation.
func TestQEMULog(t *testing.T) {
	l := lab.New(t, lab.Options{})
	// QEMU warns of what TCG cannot do as it starts: each generation says so.
	vm := l.Start(lab.Spec{Name: "vm1", Bare: true, Args: []string{"-cpu", "qemu64,+invtsc"}})
	const warning = "invtsc"
	if said := l.Cat("vm1", "qemu_log"); strings.Count(said, warning) != 1 {
		t.Errorf("the log is %q", said)
	}
	vm.HandOver(env.Newest, "")
	if said := l.Cat("vm1", "qemu_log"); strings.Count(said, warning) != 2 {
		t.Errorf("after a handoff the log is %q", said)
	}
}

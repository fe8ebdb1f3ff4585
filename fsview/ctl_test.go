package fsview_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/fsview"
	"qlive/vmstate"
)

// command is a program that is run, and whose messages appear in the test's.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	return cmd
}

// record is a Control that accepts everything and gives the caller to callers.
func record(callers chan<- fsview.Caller) func(context.Context, string, fsview.Command, fsview.Caller) error {
	return func(_ context.Context, _ string, _ fsview.Command, caller fsview.Caller) error {
		callers <- caller
		return nil
	}
}

// hold is a Control that gives the caller to arrived and waits for answer.
func hold(arrived chan<- fsview.Caller, answer <-chan struct{}) func(context.Context, string, fsview.Command, fsview.Caller) error {
	return func(_ context.Context, _ string, _ fsview.Command, caller fsview.Caller) error {
		arrived <- caller
		<-answer
		return nil
	}
}

func TestParseCommand(t *testing.T) {
	for _, c := range []struct {
		name, written string
		want          fsview.Command
		refused       string // part of the reason
	}{
		{"verb", "pause\n", fsview.Command{Verb: fsview.Pause}, ""},
		{"start", "start\n", fsview.Command{Verb: fsview.Start}, ""},
		{"without newline", "resume", fsview.Command{Verb: fsview.Resume}, ""},
		{"blanks around", " \t reset \t \n", fsview.Command{Verb: fsview.Reset}, ""},
		{"migrate to its own", "migrate\n", fsview.Command{Verb: fsview.Migrate}, ""},
		{"migrate to another", "migrate /usr/bin/qemu\n", fsview.Command{Verb: fsview.Migrate, Binary: "/usr/bin/qemu"}, ""},
		{"path with blanks", "migrate \t/opt/my qemu  11/q \n", fsview.Command{Verb: fsview.Migrate, Binary: "/opt/my qemu  11/q"}, ""},
		{"path in Unicode", "migrate /opt/ü\n", fsview.Command{Verb: fsview.Migrate, Binary: "/opt/ü"}, ""},
		{"longest", "migrate /" + strings.Repeat("x", fsview.MaxCommand-10) + "\n",
			fsview.Command{Verb: fsview.Migrate, Binary: "/" + strings.Repeat("x", fsview.MaxCommand-10)}, ""},
		{"nothing", "", fsview.Command{}, "empty"},
		{"newline", "\n", fsview.Command{}, "empty"},
		{"blanks", "  \n", fsview.Command{}, "empty"},
		{"unknown", "explode\n", fsview.Command{}, "no such command"},
		{"capitals", "PAUSE\n", fsview.Command{}, "no such command"},
		{"beginning of a verb", "pow\n", fsview.Command{}, "no such command"},
		{"argument to spare", "pause /x\n", fsview.Command{}, "takes no argument"},
		{"relative path", "migrate qemu\n", fsview.Command{}, "not an absolute path"},
		{"quoted path", "migrate \"/x\"\n", fsview.Command{}, "not an absolute path"},
		{"two lines", "pause\nresume\n", fsview.Command{}, "several lines"},
		{"two newlines", "pause\n\n", fsview.Command{}, "several lines"},
		{"carriage return", "pause\r\n", fsview.Command{}, "control characters"},
		{"NUL", "pause\x00", fsview.Command{}, "control characters"},
		{"tab in path", "migrate /a\tb\n", fsview.Command{}, "control characters"},
		{"escape in path", "migrate /a\x1b[2J\n", fsview.Command{}, "control characters"},
		{"not UTF-8", "migrate /\xff\n", fsview.Command{}, "UTF-8"},
		{"too long", "migrate /" + strings.Repeat("x", fsview.MaxCommand-9) + "\n", fsview.Command{}, "at most 4096"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := fsview.ParseCommand([]byte(c.written))
			if c.refused == "" {
				if err != nil || got != c.want {
					t.Errorf("%+v, %v, not %+v", got, err, c.want)
				}
				return
			}
			problem := vmstate.ProblemOf(err)
			if err == nil || problem.Kind() != vmstate.Invalid || !strings.HasPrefix(problem.Detail, "cannot ") ||
				!strings.Contains(problem.Detail, c.refused) || problem.Remedy == "" {
				t.Errorf("%+v, %+v, not refused for %q", got, problem, c.refused)
			}
		})
	}
}

func FuzzParseCommand(f *testing.F) {
	for _, verb := range fsview.Verbs() {
		f.Add([]byte(verb))
		f.Add([]byte(verb + " /usr/bin/qemu\n"))
	}
	f.Add([]byte("migrate \t /a b \n"))
	f.Fuzz(func(t *testing.T, written []byte) {
		cmd, err := fsview.ParseCommand(written)
		if err != nil {
			if vmstate.KindOf(err) != vmstate.Invalid || len(err.Error()) > 1000 {
				t.Errorf("%q: %v", written, err)
			}
			return
		}
		if again, err := fsview.ParseCommand([]byte(cmd.String() + "\n")); err != nil || again != cmd {
			t.Errorf("%q is %+v, which reads as %+v, %v", written, cmd, again, err)
		}
		if cmd.Binary != "" && (cmd.Verb != fsview.Migrate || cmd.Binary[0] != '/' || strings.ContainsAny(cmd.Binary, "\n\x00")) {
			t.Errorf("%q is %+v", written, cmd)
		}
	})
}

// TestWrites writes as shells and programs do.
func TestWrites(t *testing.T) {
	source := newFake(example())
	got := make(chan string, 10)
	source.control = func(_ context.Context, vm string, cmd fsview.Command, _ fsview.Caller) error {
		got <- vm + ": " + cmd.String()
		return nil
	}
	tree := mount(t, source, fsview.Options{})
	for _, c := range []struct {
		name, script string
		want         []string
		fails        bool
	}{
		{"echo", `echo pause > ctl`, []string{"pause"}, false},
		{"append", `echo resume >> ctl`, []string{"resume"}, false},
		{"without newline", `printf reset > ctl`, []string{"reset"}, false},
		{"path", `echo migrate /opt/my qemu > ctl`, []string{"migrate /opt/my qemu"}, false},
		{"tee", `echo cancel | tee ctl >/dev/null`, []string{"cancel"}, false},
		{"tee -a", `echo cancel | tee -a ctl >/dev/null`, []string{"cancel"}, false},
		{"dd", `echo powerdown | dd of=ctl status=none`, []string{"powerdown"}, false},
		{"dd, no truncation", `echo powerdown | dd of=ctl conv=notrunc status=none`, []string{"powerdown"}, false},
		{"cp", `echo rollback > ../../file; cp ../../file ctl`, []string{"rollback"}, false},
		{"two writes on one descriptor", `exec 3>ctl; echo pause >&3; echo resume >&3`, []string{"pause", "resume"}, false},
		{"a refused write between", `exec 3>ctl; echo pause >&3; echo x >&3; echo resume >&3`, []string{"pause", "resume"}, false},
		{"touch", `touch ctl`, nil, false},
		{"truncate", `: > ctl`, nil, false},
		{"several lines", `printf 'pause\nresume\n' | cat > ctl`, nil, true},
		{"several lines of bash, which writes each", `printf 'pause\nresume\n' > ctl`, []string{"pause", "resume"}, false},
		{"one byte at a time", `echo pause | dd of=ctl bs=1 status=none`, nil, true},
		{"large", `head -c 1000000 /dev/zero | tr '\0' a | dd of=ctl bs=1M iflag=fullblock status=none`, nil, true},
		{"truncate to a size", `truncate -s 5 ctl`, nil, true},
		{"overwrite by mv", `mv ../../file ctl`, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Not the tree as the child's folder from the start: this process would wait for itself.
			script := "cd '" + filepath.Join(tree.Dir(), "vm1") + "' || exit 99\n" + strings.ReplaceAll(c.script, "../../file", t.TempDir()+"/file")
			out, err := command("bash", "-c", script).CombinedOutput()
			if (err != nil) != c.fails {
				t.Errorf("%v: %s", err, out)
			}
			for _, want := range c.want {
				select {
				case cmd := <-got:
					if cmd != "vm1: "+want {
						t.Errorf("the command was %q, not %q", cmd, want)
					}
				default:
					t.Errorf("no command, not even %q: %s", want, out)
				}
			}
			select {
			case cmd := <-got:
				t.Errorf("one command too many: %q", cmd)
			default:
			}
		})
	}
	t.Run("a vector", func(t *testing.T) {
		fd, err := unix.Open(filepath.Join(tree.Dir(), "vm1", "ctl"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if n, err := unix.Writev(fd, [][]byte{[]byte("migrate "), []byte("/opt/qemu"), []byte("\n")}); err != nil || n != 18 {
			t.Fatalf("%d, %v", n, err)
		}
		if cmd := <-got; cmd != "vm1: migrate /opt/qemu" {
			t.Errorf("the command was %q", cmd)
		}
	})
	t.Run("at an offset", func(t *testing.T) {
		fd, err := unix.Open(filepath.Join(tree.Dir(), "vm1", "ctl"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if n, err := unix.Pwrite(fd, []byte("cancel"), 1<<20); err != nil || n != 6 {
			t.Fatalf("%d, %v", n, err)
		}
		if cmd := <-got; cmd != "vm1: cancel" {
			t.Errorf("the command was %q", cmd)
		}
	})
}

// ctlErrno is what a write to ctl gives: the table's errno, but never EAGAIN.
func ctlErrno(row vmstate.KindInfo) unix.Errno {
	if row.Errno == unix.EAGAIN {
		return unix.ESHUTDOWN
	}
	return row.Errno
}

func TestErrnos(t *testing.T) {
	source := newFake(example())
	tree := mount(t, source, fsview.Options{})
	for _, row := range vmstate.Kinds() {
		t.Run(string(row.Kind), func(t *testing.T) {
			source.answer.Store(vmstate.Errorf(row.Kind, "cannot do it: %s", row.Title).With("do something else"))
			if err := target(tree).WriteCtl(t, "vm1", "pause\n"); !errors.Is(err, ctlErrno(row)) {
				t.Errorf("%v, not %v", err, ctlErrno(row))
			}
			why := target(tree).Read(t, "vm1", "migration", "error")
			want := fmt.Sprintf("cannot do it: %s\nkind: %s\nremedy: do something else\nrefused: pause \nat: ", row.Title, row.Kind)
			if !strings.HasPrefix(why, want) {
				t.Errorf("migration/error is %q, not %q", why, want)
			}
		})
	}
	for _, c := range []struct {
		name string
		err  error
		want unix.Errno
	}{
		{"wrapped", fmt.Errorf("daemon: %w", vmstate.Errorf(vmstate.Busy, "cannot migrate vm1: mig-2 is under way")), unix.EBUSY},
		{"foreign", errors.New("oops"), unix.EIO},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := newFake(example())
			source.control = func(context.Context, string, fsview.Command, fsview.Caller) error { return c.err }
			if err := target(mount(t, source, fsview.Options{})).WriteCtl(t, "vm1", "pause\n"); !errors.Is(err, c.want) {
				t.Errorf("%v, not %v", err, c.want)
			}
		})
	}
	t.Run("no writer waits for a better time", func(t *testing.T) {
		source.answer.Store(vmstate.Errorf(vmstate.Unavailable, "cannot pause vm1: the daemon is stopping"))
		f, err := os.OpenFile(filepath.Join(tree.Dir(), "vm1", "ctl"), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		late := time.AfterFunc(10*time.Second, func() { f.Close() })
		if _, err := f.WriteString("pause\n"); !errors.Is(err, unix.ESHUTDOWN) {
			t.Errorf("%v, not ESHUTDOWN", err)
		}
		if late.Stop() {
			f.Close()
		}
	})
	t.Run("in a shell", func(t *testing.T) {
		source.answer.Store(vmstate.Errorf(vmstate.Busy, "cannot migrate vm1: mig-2 is under way"))
		out, err := command("bash", "-c", "echo migrate > "+filepath.Join(tree.Dir(), "vm1", "ctl")).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "Device or resource busy") {
			t.Errorf("%v, %s", err, out)
		}
	})
}

func TestControlTimeout(t *testing.T) {
	source := newFake(example())
	source.control = func(ctx context.Context, _ string, _ fsview.Command, _ fsview.Caller) error {
		<-ctx.Done()
		return ctx.Err()
	}
	tree := mount(t, source, fsview.Options{ControlTimeout: 50 * time.Millisecond})
	if err := target(tree).WriteCtl(t, "vm1", "pause\n"); !errors.Is(err, unix.ETIMEDOUT) {
		t.Errorf("%v, not ETIMEDOUT", err)
	}
	if why := target(tree).Read(t, "vm1", "migration", "error"); !strings.Contains(why, "kind: timeout") {
		t.Errorf("migration/error is %q", why)
	}
}

// TestSignalDoesNotRepeatCommands interrupts a writer that, like many, writes again after EINTR.
func TestSignalDoesNotRepeatCommands(t *testing.T) {
	source := newFake(example())
	calls, proceed := make(chan context.Context, 2), make(chan struct{})
	source.control = func(ctx context.Context, _ string, _ fsview.Command, _ fsview.Caller) error {
		calls <- ctx
		<-proceed
		return nil
	}
	tree := mount(t, source, fsview.Options{})
	cmd := command("bash", "-c", "trap 'true' USR1; echo pause > "+filepath.Join(tree.Dir(), "vm1", "ctl"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx := <-calls
	if err := cmd.Process.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
		t.Error("the signal has cancelled the command")
	case <-time.After(100 * time.Millisecond):
	}
	close(proceed)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the writer: %v", err)
	}
	if n := len(calls); n != 0 {
		t.Errorf("the command came %d times more", n)
	}
}

func TestRefusals(t *testing.T) {
	type step struct {
		do   func(f *fake)
		ctl  string // written then, if anything
		want string // what migration/error of vm2 begins with
	}
	own := "cannot start the target: it exited with status 1"
	no := "cannot do it"
	refuse := func(f *fake) { f.answer.Store(vmstate.Errorf(vmstate.Conflict, "cannot do it")) }
	accept := func(f *fake) { f.answer.Store(nil) }
	change := func(edit func(s *vmstate.Snapshot)) func(*fake) {
		return func(f *fake) {
			s := example()
			edit(s)
			f.snap.Store(s)
		}
	}
	later := time.Now().Add(time.Hour)
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"the migration's own problem", []step{{nil, "", own}}},
		{"a refusal is newer", []step{{refuse, "pause", no}}},
		{"until something is accepted", []step{
			{refuse, "pause", no}, {accept, "pause", own}}},
		{"a wrong command counts, too", []step{{nil, "rubbish", "cannot obey"}, {nil, "pause", own}}},
		{"until another migration begins", []step{{refuse, "pause", no},
			{change(func(s *vmstate.Snapshot) {
				s.VMs[1].Migration = "mig-3"
				s.Migrations = append(s.Migrations, vmstate.Migration{ID: "mig-3", VM: "vm2", Phase: vmstate.Preparing})
			}), "", "none"}}},
		{"until the migration ends", []step{
			{change(func(s *vmstate.Snapshot) { s.Migrations[1].EndedAt, s.Migrations[1].Error = nil, nil }), "", "none"},
			{refuse, "migrate", no},
			{change(func(s *vmstate.Snapshot) { s.Migrations[1].EndedAt = &later }), "", own}}},
		{"not for another VM of that name", []step{{refuse, "pause", no},
			{change(func(s *vmstate.Snapshot) { s.VMs[1].StartedAt = later }), "", own}}},
		{"without any migration", []step{{change(func(s *vmstate.Snapshot) { s.VMs[1].Migration = "" }), "", "none"}, {refuse, "pause", no}}},
		{"of a migration that is forgotten", []step{{change(func(s *vmstate.Snapshot) { s.Migrations = nil }), "", "none"}, {refuse, "pause", no}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := newFake(example())
			tree := mount(t, source, fsview.Options{})
			for i, s := range c.steps {
				if s.do != nil {
					s.do(source)
				}
				if s.ctl != "" {
					_ = target(tree).WriteCtl(t, "vm2", s.ctl)
				}
				if got := target(tree).Read(t, "vm2", "migration", "error"); !strings.HasPrefix(got, s.want) {
					t.Errorf("after step %d migration/error is %q, not %q", i, got, s.want)
				}
			}
			own, err := os.ReadFile(filepath.Join(tree.Dir(), "migrations", "mig-1", "error"))
			if strings.Contains(string(own), "refused") {
				t.Errorf("migrations/mig-1/error tells of a refusal: %q, %v", own, err)
			}
		})
	}
}

func TestRefusalsAreBounded(t *testing.T) {
	source := newFake(many(30))
	tree := mount(t, source, fsview.Options{})
	for round := range 3 {
		s := many(30)
		for i := range s.VMs {
			s.VMs[i].Name = fmt.Sprintf("round%d-%d", round, i)
		}
		source.snap.Store(s)
		for i := range s.VMs {
			if err := target(tree).WriteCtl(t, s.VMs[i].Name, "rubbish"); !errors.Is(err, unix.EINVAL) {
				t.Fatal(err)
			}
		}
		if n := tree.Refusals(); n != 30 {
			t.Errorf("%d refusals are kept for 30 VMs", n)
		}
	}
}

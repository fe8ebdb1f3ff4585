package qemu_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/internal/qemu"
	"qlive/vmstate"
)

// sh runs a line of shell as a Process, which the test ends if it has not ended by itself.
func sh(t *testing.T, line string, files ...*os.File) *qemu.Process {
	t.Helper()
	return begin(t, qemu.Command{Binary: admit(t, "/bin/sh"), Args: []string{"-c", line}, Files: files})
}

// over waits for the end of p.
func over(t *testing.T, p *qemu.Process) qemu.Exit {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		t.Fatalf("process %d does not end; it has said %q", p.PID(), p.Tail(qemu.Words))
	}
	exit, ok := p.Exited()
	if !ok {
		t.Fatal("done, and not exited")
	}
	return exit
}

// said waits until the process has said the word.
func said(t *testing.T, p *qemu.Process, word string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !slices.Contains(p.Tail(100), word); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not say %q but %q", p.PID(), word, p.Tail(qemu.Words))
		}
	}
}

func TestExit(t *testing.T) {
	for line, want := range map[string]qemu.Exit{
		"exit 0":                     {Known: true},
		"echo a; echo b >&2; exit 3": {Known: true, Code: 3},
		"kill -9 $$":                 {Known: true, Signal: syscall.SIGKILL},
	} {
		p := sh(t, line)
		if got := over(t, p); got != want {
			t.Errorf("%s: %v, want %v", line, got, want)
		}
		if err := p.Kill(); err != nil {
			t.Errorf("%s: killing the dead: %v", line, err)
		}
		if strings.HasPrefix(line, "echo") {
			e := p.Ended("start vm1")
			if e.Kind != vmstate.QEMU || !slices.Equal(e.Words, []string{"a", "b"}) || !strings.Contains(e.Detail, "ended with status 3") {
				t.Errorf("%+v", e)
			}
		}
	}
}

func TestKill(t *testing.T) {
	p := sh(t, "trap '' TERM; echo ready; while :; do sleep 0.01; done")
	said(t, p, "ready")
	if exit, ok := p.Exited(); ok {
		t.Fatalf("it runs, and %v", exit)
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if exit := over(t, p); exit.Signal != syscall.SIGKILL {
		t.Errorf("it %v", exit)
	}
	if _, err := proc.ReadStat(p.PID()); err == nil {
		t.Error("nobody has waited for it")
	}
}

// TestWhatItLeavesBehind: a script that stands in QEMU's place and its children end together, whoever goes first.
func TestWhatItLeavesBehind(t *testing.T) {
	for name, line := range map[string]string{
		"killed":         "sleep 1000 & echo $!; echo ready; wait",
		"ended, at once": "sleep 1000 & echo $!; echo ready",
	} {
		p := sh(t, line)
		said(t, p, "ready")
		child, err := strconv.Atoi(p.Tail(2)[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		over(t, p)
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			if s, err := proc.ReadStat(child); err != nil || s.Ended() {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: its child %d runs on", name, child)
			}
		}
	}
}

// TestFreeOfUs looks at what the process has inherited.
func TestFreeOfUs(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/x")
	t.Setenv("QLIVE_SOCKET", "/x")
	t.Setenv("KEPT", "yes")
	var files []*os.File
	for range 2 {
		f, err := os.CreateTemp(t.TempDir(), "ram")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	p := sh(t, `ls /proc/$$/fd; env; echo one >&3; echo two >&4; read line; echo "stdin $?"; echo ready; exec sleep 1000`, files...)
	said(t, p, "ready")
	text := p.Tail(1000)
	for _, bad := range text {
		if strings.HasPrefix(bad, "NOTIFY_SOCKET") || strings.HasPrefix(bad, "QLIVE_") {
			t.Errorf("it has inherited %s", bad)
		}
	}
	if !slices.Contains(text, "KEPT=yes") || !slices.Contains(text, "stdin 1") {
		t.Errorf("it says %q", text)
	}
	// As it begins, sleep has its libraries open for a moment.
	var fds []os.DirEntry
	for deadline := time.Now().Add(20 * time.Second); len(fds) != 5; time.Sleep(time.Millisecond) {
		var err error
		if fds, err = os.ReadDir("/proc/" + itoa(p.PID()) + "/fd"); err != nil || time.Now().After(deadline) {
			t.Fatalf("it has %v open, want 0 to 4; %v", fds, err)
		}
	}
	for i, want := range []string{"one\n", "two\n"} {
		if got, err := os.ReadFile(files[i].Name()); err != nil || string(got) != want {
			t.Errorf("descriptor %d holds %q, %v", 3+i, got, err)
		}
	}
	sid, err := unix.Getsid(p.PID())
	if err != nil || sid != p.PID() {
		t.Errorf("its session is %d, it is %d; %v", sid, p.PID(), err)
	}
}

func TestStartErrors(t *testing.T) {
	dir := folder(t, 0o755)
	log := filepath.Join(dir, "log")
	sh := admit(t, "/bin/sh")
	replaced := admit(t, write(t, dir+"/r", "#!/bin/sh\n", 0o755))
	write(t, dir+"/r", "#!/bin/sh\nexit 1\n", 0o755)
	for name, tt := range map[string]struct {
		c    qemu.Command
		kind vmstate.Kind
	}{
		"no file":        {qemu.Command{Binary: &qemu.Binary{Path: dir + "/nothing"}, Log: log}, vmstate.NotFound},
		"no interpreter": {qemu.Command{Binary: &qemu.Binary{Path: write(t, dir+"/s", "#!/nothing\n", 0o755)}, Log: log}, vmstate.NotFound},
		"no program":     {qemu.Command{Binary: admit(t, write(t, dir+"/p", "\x00\x01", 0o755)), Log: log}, vmstate.QEMU},
		"no loader":      {qemu.Command{Binary: admit(t, elf(t, dir+"/e", "/nothing")), Log: log}, vmstate.NotFound},
		"not executable": {qemu.Command{Binary: &qemu.Binary{Path: write(t, dir+"/n", "", 0o644)}, Log: log}, vmstate.Denied},
		"replaced":       {qemu.Command{Binary: replaced, Log: log}, vmstate.Conflict},
		"no folder":      {qemu.Command{Binary: sh, Dir: dir + "/nothing", Log: log}, vmstate.Invalid},
		"no log":         {qemu.Command{Binary: sh, Log: dir + "/nothing/log"}, vmstate.Host},
		"too much":       {qemu.Command{Binary: sh, Args: []string{strings.Repeat("x", 1<<20)}, Log: log}, vmstate.Invalid},
	} {
		p, err := qemu.Start(tt.c)
		if err == nil || vmstate.KindOf(err) != tt.kind || !strings.HasPrefix(err.Error(), "cannot ") {
			t.Errorf("%s: %v, %v; want %s", name, p, err, tt.kind)
		}
	}
}

// elf makes a copy of a program that asks for a loader that is not there.
func elf(t *testing.T, path, loader string) string {
	t.Helper()
	text, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	real := regexp.MustCompile(`/lib[0-9]*/ld-linux[-a-z0-9_]*\.so\.[0-9]\x00`).Find(text)
	if len(real) < len(loader) {
		t.Fatalf("/bin/true names the loader %q", real)
	}
	return write(t, path, strings.Replace(string(text), string(real), loader+strings.Repeat("\x00", len(real)-len(loader)), 1), 0o755)
}

func TestRelease(t *testing.T) {
	p := sh(t, "exec sleep 1000")
	other, err := qemu.Attach(p.ID(), p.Log())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Release(); err != nil {
		t.Fatal(err)
	}
	_ = other.Release() // may be called twice
	select {
	case <-other.Done():
		t.Error("letting go has ended it")
	case <-p.Done():
		t.Error("letting go has killed it")
	default:
	}
	if err := other.Kill(); err == nil {
		t.Error("it can be killed after it was let go")
	}
	if s, err := proc.ReadStat(p.PID()); err != nil || s.Ended() {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestAttach(t *testing.T) {
	p := sh(t, "echo hello; exec sleep 1000")
	other, err := qemu.Attach(p.ID(), p.Log())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	said(t, other, "hello")
	if err := other.Kill(); err != nil {
		t.Fatal(err)
	}
	if exit := over(t, other); exit.Known && exit.Signal != syscall.SIGKILL {
		t.Errorf("we are told that it %v", exit)
	}
	over(t, p)
	wrong := qemu.Identity{PID: os.Getpid(), Start: 1}
	for name, id := range map[string]qemu.Identity{"another process": wrong, "ended": p.ID(), "none": {PID: 1 << 29, Start: 1}, "rubbish": {PID: -1}} {
		if q, err := qemu.Attach(id, ""); vmstate.KindOf(err) != vmstate.Lost {
			t.Errorf("%s: %v, %v", name, q, err)
		}
	}
}

// A kernel that tells how another's child ended is asked, and believed.
func TestExitOfAnother(t *testing.T) {
	var name unix.Utsname
	var major, minor int
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if major < 6 || major == 6 && minor < 15 {
		t.Skip("before 6.15 the kernel tells nobody but the parent")
	}
	for _, tt := range []struct {
		name string
		sig  syscall.Signal
		want qemu.Exit
	}{
		{"killed", syscall.SIGKILL, qemu.Exit{Known: true, Signal: syscall.SIGKILL}},
		{"ended", syscall.SIGTERM, qemu.Exit{Known: true, Code: 3}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for deadline := time.Now().Add(time.Minute); ; { // its parent, who is slow to ask, is waited for only shortly
				p := sh(t, "trap 'exit 3' TERM; echo ready; while sleep 0.01; do :; done")
				said(t, p, "ready")
				other, err := qemu.Attach(p.ID(), p.Log())
				if err != nil {
					t.Fatal(err)
				}
				if err := syscall.Kill(p.PID(), tt.sig); err != nil { // our child, which nobody has buried
					t.Fatal(err)
				}
				exit := over(t, other)
				over(t, p)
				if err := other.Release(); err != nil {
					t.Error(err)
				}
				if exit == tt.want {
					return
				}
				if exit.Known || time.Now().After(deadline) {
					t.Fatalf("it is said that it %v", exit)
				}
			}
		})
	}
}

// TestAttachToTheUnburied: a process that has ended and that nobody has waited for is gone.
func TestAttachToTheUnburied(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s, err := proc.ReadStat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	id := qemu.Identity{PID: s.PID, Start: s.Start}
	p, err := qemu.Attach(id, "")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	over(t, p)
	if q, err := qemu.Attach(id, ""); vmstate.KindOf(err) != vmstate.Lost {
		t.Errorf("%v, %v", q, err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it was not killed")
	}
}

func TestTail(t *testing.T) {
	p := sh(t, `i=0; while [ $i -lt 5000 ]; do i=$((i+1)); echo "line $i"; done; echo; printf '\377end'`)
	over(t, p)
	got := p.Tail(3)
	if !slices.Equal(got, []string{"line 4999", "line 5000", "�end"}) {
		t.Errorf("%q", got)
	}
	if len(p.Tail(1<<20)) > 10000 || len(p.Tail(0)) != 0 {
		t.Error("too many lines")
	}
}

func TestEnvironment(t *testing.T) {
	got := qemu.Environment([]string{"A=1", "LISTEN_FDS=3", "QLIVE_X=1", "WATCHDOG_USEC=1", "LISTEN_FDS_MINE=1"})
	if !slices.Equal(got, []string{"A=1", "LISTEN_FDS_MINE=1"}) {
		t.Errorf("%q", got)
	}
}

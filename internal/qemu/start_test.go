package qemu_test

import (
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/internal/qemu"
	"qlive/vmstate"
)

// begin starts a command, which the test ends if it has not ended by itself.
func begin(t *testing.T, c qemu.Command) *qemu.Process {
	t.Helper()
	c.Log = filepath.Join(folder(t, 0o755), "log")
	p, err := qemu.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
		_ = p.Release() // the second time it says that it is closed
	})
	return p
}

// This program can be run once more, with what it is given and nothing else.
func TestStartSelf(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, name := range []string{"", "nobody"} {
		user, err := qemu.LookUpUser(name)
		if err != nil {
			t.Fatal(err)
		}
		log := filepath.Join(t.TempDir(), "log")
		p, err := qemu.StartSelf(qemu.Command{Args: []string{"-test.run=^$"}, Files: []*os.File{null}, Dir: "/", Env: []string{}, Log: log, User: user})
		if err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		if err := p.Release(); err != nil {
			t.Error(err)
		}
		said, err := os.ReadFile(log)
		if exit, _ := p.Exited(); err != nil || exit != (qemu.Exit{Known: true}) || !strings.Contains(string(said), "no tests to run") {
			t.Errorf("as %q it %s and said %q, %v", name, exit, said, err)
		}
	}
}

// copyOf makes a copy of a program.
func copyOf(t *testing.T, program, path string, mode os.FileMode) string {
	t.Helper()
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, path, string(text), mode)
}

// TestByDescriptor: what is run is told its own path, and nothing of how it was reached is left open in it.
func TestByDescriptor(t *testing.T) {
	path := copyOf(t, "/bin/sleep", folder(t, 0o755)+"/qemu-system-x86_64", 0o755)
	link := path + ".link"
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for n := range 12 { // whatever the numbers are that the child's files have to move to
		p := begin(t, qemu.Command{Binary: admit(t, link), Args: []string{"1000"}, Files: slices.Repeat([]*os.File{null}, n)})
		if text := arguments(t, p); text != link+"\x001000\x00" {
			t.Errorf("its arguments are %q", text)
		}
		if exe, err := os.Readlink("/proc/" + itoa(p.PID()) + "/exe"); exe != path {
			t.Errorf("it runs %s, %v", exe, err)
		}
		for i, name := range awaitDescriptors(t, p, 3+n) {
			if i > 2 && name != os.DevNull {
				t.Errorf("with %d files descriptor %d is %s", n, i, name)
			}
		}
	}
}

// arguments are those of a process, which has none for a moment while the kernel replaces its program.
func arguments(t *testing.T, p *qemu.Process) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		text, err := os.ReadFile("/proc/" + itoa(p.PID()) + "/cmdline")
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("process %d has no arguments: %v", p.PID(), err)
		}
		if len(text) > 0 {
			return string(text)
		}
	}
}

// awaitDescriptors waits until the process has the first n descriptors and no other, and gives what they are: as it begins, a shell has its script
// open, and a program its libraries and what it knows of languages.
func awaitDescriptors(t *testing.T, p *qemu.Process, n int) map[int]string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		got := descriptors(t, p)
		if numbers := slices.Sorted(maps.Keys(got)); len(got) == n && numbers[n-1] == n-1 {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("its descriptors are %v, want the first %d", got, n)
		}
	}
}

// descriptors are what the descriptors of a process are.
func descriptors(t *testing.T, p *qemu.Process) map[int]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/" + itoa(p.PID()) + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]string{}
	for _, e := range entries {
		name, err := os.Readlink("/proc/" + itoa(p.PID()) + "/fd/" + e.Name())
		n, notNumber := strconv.Atoi(e.Name())
		if err == nil && notNumber == nil {
			all[n] = name
		}
	}
	return all
}

// TestScriptByDescriptor shows what a wrapper finds: $0 is the descriptor, which leads to the script itself.
func TestScriptByDescriptor(t *testing.T) {
	b := script(t, `echo "$0"; readlink -f "$0"; dirname "$(readlink -f "$0")"; echo "$#:$1:$2"; cd "$(dirname "$0")" && pwd; exec sleep 1000`)
	p := begin(t, qemu.Command{Binary: b, Args: []string{"one word", "-two"}, Dir: "/"})
	said(t, p, "2:one word:-two")
	said(t, p, "/proc/self/fd")
	lines := p.Tail(10)
	if !regexp.MustCompile(`^/proc/self/fd/3$`).MatchString(lines[0]) || lines[1] != b.Path || lines[2] != filepath.Dir(b.Path) {
		t.Errorf("it says %q", lines)
	}
	awaitDescriptors(t, p, 4)
}

// TestInterpreters: the first line means what it means to the kernel.
func TestInterpreters(t *testing.T) {
	for _, first := range []string{"#!/bin/sh", "#!/bin/sh -e", "#! /bin/bash", "#!/bin/sh ", "#!/bin/../bin/sh"} {
		b := admit(t, write(t, folder(t, 0o755)+"/q", first+"\necho ok \"$1\"\n", 0o755))
		p := begin(t, qemu.Command{Binary: b, Args: []string{"one"}})
		over(t, p)
		if got := p.Tail(1); !slices.Equal(got, []string{"ok one"}) {
			t.Errorf("%s: it says %q", first, got)
		}
	}
}

// place is a folder with three binaries, and how somebody exchanges them.
type place struct {
	files [3]string // two that may run, ending with 0 and 1; and one that may not
	path  string    // where one of them is found
	swap  func(dir string, i int) error
}

// places are the things on the path of a binary that can be exchanged, by name.
func places() map[string]place {
	three := [3]string{"0", "1", "2"}
	return map[string]place{
		"file": {three, "0", func(dir string, i int) error { return exchange(dir+"/0", dir+"/"+itoa(1+i%2)) }},
		"link": {three, "link", func(dir string, i int) error {
			if err := os.Symlink(itoa(i%3), dir+"/new"); err != nil {
				return err
			}
			return os.Rename(dir+"/new", dir+"/link")
		}},
		"folder": {[3]string{"0/bin/q", "1/bin/q", "2/bin/q"}, "0/bin/q", func(dir string, i int) error {
			return exchange(dir+"/0", dir+"/"+itoa(1+i%2))
		}},
	}
}

// fill makes the binaries in dir, and tells how each that may run ends.
func (p place) fill(t *testing.T, dir string, scripts bool) map[qemu.FileID]int {
	t.Helper()
	exits := map[qemu.FileID]int{}
	for i, name := range p.files {
		path, mode := filepath.Join(dir, name), os.FileMode(0o755)
		if i == 2 {
			mode = 0o777
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if scripts || i == 2 {
			write(t, path, "#!/bin/sh\nexit "+itoa(i)+"\n", mode)
		} else {
			copyOf(t, []string{"/bin/true", "/bin/false"}[i], path, mode)
		}
		if id, err := qemu.Identify(path); err != nil {
			t.Fatal(err)
		} else if i < 2 {
			exits[id] = i
		}
	}
	return exits
}

// TestWhatRunsWasChecked lets somebody exchange the binary all the time, by each thing on its path that can be exchanged, while it is
// admitted and started: whatever begins is the file that was admitted, and never one that may not be.
func TestWhatRunsWasChecked(t *testing.T) {
	needRoot(t)
	for _, scripts := range []bool{false, true} {
		for name, p := range places() {
			t.Run(map[bool]string{false: "program", true: "script"}[scripts]+", "+name, func(t *testing.T) {
				dir := folder(t, 0o755)
				exits := p.fill(t, dir, scripts)
				stop := keepSwapping(t, func(i int) error { return p.swap(dir, i) })
				ran, refused := race(t, filepath.Join(dir, p.path), exits)
				swaps := stop()
				t.Logf("%d ran, %d refused, %d exchanges", ran, refused, swaps)
			})
		}
	}
}

// race admits and starts what is at path until it has seen enough of both ends, and compares what ran with what was admitted.
func race(t *testing.T, path string, exits map[qemu.FileID]int) (ran, refused int) {
	const enough = 100
	log := filepath.Join(folder(t, 0o755), "log")
	for deadline := time.Now().Add(20 * time.Second); ran < enough || refused < enough; {
		if time.Now().After(deadline) {
			t.Fatalf("%d ran and %d were refused, which is not enough", ran, refused)
		}
		b, err := qemu.Admit(path, nil)
		var p *qemu.Process
		if err == nil {
			p, err = qemu.Start(qemu.Command{Binary: b, Log: log})
		}
		if err != nil {
			switch vmstate.KindOf(err) {
			case vmstate.Denied, vmstate.Conflict, vmstate.NotFound:
				refused++
				continue
			}
			t.Fatal(err)
		}
		want, mayRun := exits[b.ID]
		if exit := over(t, p); !mayRun || exit.Signal != 0 || exit.Code != want {
			t.Fatalf("%+v was admitted, which ends with %d; what ran %s: %q", b, want, exit, p.Tail(5))
		}
		if err := p.Release(); err != nil {
			t.Fatal(err)
		}
		ran++
	}
	return ran, refused
}

// keepSwapping calls swap until it is stopped, and tells how often it was.
func keepSwapping(t *testing.T, swap func(int) error) (stop func() int) {
	end, done := make(chan struct{}), make(chan int)
	go func() {
		for i := 1; ; i++ {
			select {
			case <-end:
				done <- i
				return
			default:
			}
			if err := swap(i); err != nil {
				t.Error(err)
				done <- 0
				return
			}
		}
	}()
	return func() int { close(end); return <-done }
}

// exchange makes of two names each the other's.
func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

func TestRunAsAUser(t *testing.T) {
	needRoot(t)
	u, err := qemu.LookUpUser("nobody")
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t, 0o755)
	ram, err := os.CreateTemp(dir, "ram")
	if err != nil {
		t.Fatal(err)
	}
	defer ram.Close()
	if err := u.Own([]*os.File{ram}); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*qemu.Binary{admit(t, "/bin/sh"), script(t, `exec /bin/sh "$@"`)} {
		p := begin(t, qemu.Command{Binary: b, User: u, Dir: "/", Files: []*os.File{ram}, OOMScoreAdj: 321,
			Args: []string{"-c", `id -un; id -Gn; echo "$HOME:$USER"; echo ram >/proc/self/fd/3 && echo written; cat /etc/shadow; echo end; exec sleep 1000`}})
		said(t, p, "end")
		said(t, p, "written")
		text := p.Tail(10)
		if text[0] != "nobody" || !slices.Contains(text, u.Home+":nobody") || !strings.Contains(strings.Join(text, " "), "Permission denied") {
			t.Errorf("it says %q", text)
		}
		got, err := io.ReadAll(io.NewSectionReader(ram, 0, 10))
		if err != nil || string(got) != "ram\n" {
			t.Errorf("the file holds %q, %v", got, err)
		}
		score, err := os.ReadFile("/proc/" + itoa(p.PID()) + "/oom_score_adj")
		if err != nil || string(score) != "321\n" {
			t.Errorf("its oom_score_adj is %q, %v", score, err)
		}
		if err := p.SetOOMScoreAdj(7); err != nil {
			t.Error(err)
		}
		if score, err = os.ReadFile("/proc/" + itoa(p.PID()) + "/oom_score_adj"); string(score) != "7\n" {
			t.Errorf("its oom_score_adj is %q, %v", score, err)
		}
		if _, err := proc.ReadStat(p.PID()); err != nil {
			t.Error(err)
		}
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		over(t, p)
		if err := p.SetOOMScoreAdj(1); err != nil {
			t.Errorf("of the dead: %v", err)
		}
	}
}

func TestUserCannot(t *testing.T) {
	needRoot(t)
	u, err := qemu.LookUpUser("nobody")
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t, 0o700)
	log := filepath.Join(dir, "log")
	for name, tt := range map[string]struct {
		c    qemu.Command
		kind vmstate.Kind
	}{
		"enter":     {qemu.Command{Binary: admit(t, "/bin/sh"), Dir: dir}, vmstate.Denied},
		"read":      {qemu.Command{Binary: admit(t, copyOf(t, "/bin/true", folder(t, 0o755)+"/q", 0o700)), Dir: "/"}, vmstate.Denied},
		"no folder": {qemu.Command{Binary: admit(t, "/bin/sh"), Dir: dir + "/x"}, vmstate.Invalid},
	} {
		tt.c.Log, tt.c.User = log, u
		if p, err := qemu.Start(tt.c); err == nil || vmstate.KindOf(err) != tt.kind || !strings.Contains(err.Error(), "nobody") {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
}

func TestLookUpUser(t *testing.T) {
	for _, name := range []string{"", "root", "0"} {
		if u, err := qemu.LookUpUser(name); u != nil || err != nil {
			t.Errorf("%q: %+v, %v", name, u, err)
		}
	}
	byName, err := qemu.LookUpUser("nobody")
	if err != nil || byName.UID == 0 || byName.Name != "nobody" {
		t.Fatalf("%+v, %v", byName, err)
	}
	byNumber, err := qemu.LookUpUser(itoa(byName.UID))
	if err != nil || byNumber.UID != byName.UID || byNumber.GID != byName.GID {
		t.Errorf("%+v, %v", byNumber, err)
	}
	for _, name := range []string{"no-such-user", "123456789", "-1"} {
		if u, err := qemu.LookUpUser(name); vmstate.KindOf(err) != vmstate.Invalid {
			t.Errorf("%q: %+v, %v", name, u, err)
		}
	}
}

func TestProcessName(t *testing.T) {
	for path, want := range map[string]string{
		"/usr/bin/qemu-system-x86_64": "qemu-system-x86",
		"/opt/my qemu,v=2":            "my_qemu_v_2",
		"/x/kvm":                      "kvm",
	} {
		if got := qemu.ProcessName(path); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
}

package cli_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/restapi/restapitest"
	"qlive/vmstate"
)

// openTerminal gives both ends of a new terminal; what is written to it is kept in the screen.
func openTerminal(t *testing.T) (keyboard, tty *os.File, shown *screen) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	shown = &screen{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(shown, keyboard) // ends with an error when the last holder of the terminal has closed it
	}()
	t.Cleanup(func() { tty.Close(); <-done })
	return keyboard, tty, shown
}

// screen keeps what was shown.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// within waits until check holds.
func within(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !check(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

// qlive starts this test's program as the command.
func qlive(t *testing.T, socket string, tty *os.File, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "qlive") // testscript.Main goes by the name
	if err := os.Symlink(self, name); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "QLIVE_SOCKET="+socket, "TERM=xterm", "GORACE="+noLinger)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill() // the test has failed already
			_ = cmd.Wait()
		}
	})
	return cmd
}

func TestConsoleOnATerminal(t *testing.T) {
	log := filepath.Join(t.TempDir(), "console")
	vm := restapitest.VM("vm1")
	vm.ConsoleLog = []string{log}
	if err := os.WriteFile(log, []byte(strings.Repeat("an old line\n", 1000)+"login: "), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, vm)
	keyboard, tty, shown := openTerminal(t)
	before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	cmd := qlive(t, w.socket(), tty, "console", "vm1")
	within(t, "the guest's words are shown", func() bool { return strings.HasSuffix(shown.String(), "login: ") })
	if n := strings.Count(shown.String(), "an old line"); n > 500 {
		t.Errorf("%d old lines are shown", n)
	}
	type_ := func(keys string) {
		t.Helper()
		if _, err := keyboard.WriteString(keys); err != nil {
			t.Fatal(err)
		}
	}
	type_("root\r")
	within(t, "what is typed reaches the guest", func() bool { return w.svc.Typed() == "root\r" })
	type_("\x03") // Ctrl-C is the guest's
	within(t, "Ctrl-C reaches the guest", func() bool { return w.svc.Typed() == "\x03" })
	type_("x\x1dy")
	if err := cmd.Wait(); err != nil {
		t.Errorf("leaving: %v", err)
	}
	if got := w.svc.Typed(); got != "x" {
		t.Errorf("typed at the end: %q", got)
	}
	after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal is left as %+v, %v; it was %+v", after, err, before)
	}
	within(t, "leaving is told", func() bool { return strings.Contains(shown.String(), "left the console of vm1") })
}

func TestConsoleEndsWithTheVM(t *testing.T) {
	w := newWorld(t, restapitest.VM("vm1"))
	_, tty, shown := openTerminal(t)
	cmd := qlive(t, w.socket(), tty, "console", "vm1")
	within(t, "the console is open", func() bool { return strings.Contains(shown.String(), "Ctrl-] leaves") })
	vm := restapitest.VM("vm1")
	vm.Status = vmstate.Stopped
	w.svc.SetVM(vm)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the VM's end: %v", err)
	}
	within(t, "the end is told", func() bool { return strings.Contains(shown.String(), "vm1 is gone or has stopped") })
}

func TestProgressOnATerminal(t *testing.T) {
	w := newWorld(t, restapitest.VM("vm1"))
	_, tty, shown := openTerminal(t)
	cmd := qlive(t, w.socket(), tty, "migrate", "vm1")
	within(t, "progress is shown", func() bool { return strings.Contains(shown.String(), "ram0 owned 0%") })
	m := w.svc.Step("mig-1", vmstate.Preparing)
	m.Regions = []vmstate.Region{m.Regions[0].Advance(vmstate.Mapped)}
	m.Progress = 25
	w.svc.SetMigration(m)
	within(t, "a region's progress is shown", func() bool { return strings.Contains(shown.String(), "25%  ram0 mapped 25%") })
	for _, phase := range restapitest.Full()[1:] {
		w.svc.Step("mig-1", phase)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
	within(t, "the end is shown", func() bool { return strings.Contains(shown.String(), "mig-1  vm1  completed") })
	for _, phase := range restapitest.Full() {
		if n := strings.Count(shown.String(), "vm1  "+string(phase)); n < 1 {
			t.Errorf("%s has no line in:\n%q", phase, shown.String())
		}
	}
}

package foreign

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"qlive/internal/qmp/qmptest"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func greet(c *qmptest.Conn) {
	c.Handshake()
	c.WaitHangUp()
}

func TestFind(t *testing.T) {
	path := qmptest.Listen(t, greet)
	for _, tt := range []struct {
		name   string
		pid    int
		socket string
	}{
		{"both", os.Getpid(), path},
		{"by the monitor", 0, path},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, client, at, err := Find(t.Context(), tt.pid, tt.socket)
			if err != nil {
				t.Fatal(err)
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
			if p.ID.PID != os.Getpid() || at != path {
				t.Errorf("process %d at %s", p.ID.PID, at)
			}
		})
	}
}

func TestFindRefuses(t *testing.T) {
	there := qmptest.Listen(t, greet)
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait() // it was killed
	}()
	dead := filepath.Join(filepath.Dir(there), "dead")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, tt := range []struct {
		name   string
		pid    int
		socket string
		kind   vmstate.Kind
		says   string
	}{
		{"nothing is named", 0, "", vmstate.Invalid, "neither"},
		{"a relative path", 0, "qmp.sock", vmstate.Invalid, "absolute"},
		{"no such process", 1 << 30, there, vmstate.NotFound, "there is none"},
		{"no such socket", os.Getpid(), there + "x", vmstate.NotFound, "no such socket"},
		{"no such socket, no process", 0, there + "x", vmstate.NotFound, "no such socket"},
		{"nobody listens", os.Getpid(), dead, vmstate.NotFound, "nobody listens"},
		{"another process' monitor", other.Process.Pid, there, vmstate.Conflict, "listens there"},
		{"no monitor", other.Process.Pid, "", vmstate.Unsupported, "it has no monitor"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, client, _, err := Find(t.Context(), tt.pid, tt.socket)
			if err == nil {
				client.Close()
				t.Fatal("it was found")
			}
			problem := vmstate.ProblemOf(err)
			if problem.Kind() != tt.kind || !strings.Contains(problem.Detail, tt.says) || problem.Remedy == "" {
				t.Errorf("the refusal is %+v", problem)
			}
		})
	}
}

// A monitor serves one client: the second is told who has it, or that QEMU is silent.
func TestFindTakenMonitor(t *testing.T) {
	dir, err := os.MkdirTemp("", "foreign-") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "qmp")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := Inspect(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	refused := func(kind vmstate.Kind, says string) {
		t.Helper()
		_, err := p.connect(t.Context(), path)
		if problem := vmstate.ProblemOf(err); problem.Kind() != kind || !strings.Contains(problem.Detail, says) || problem.Remedy == "" {
			t.Errorf("the refusal is %+v", problem)
		}
	}
	refused(vmstate.Timeout, "has not answered") // nobody has accepted anything
	first, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for range 2 { // the connection of the refused client, which is gone, and the one that stays
		served, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer served.Close()
	}
	refused(vmstate.Conflict, "another client has its monitor")
}

package access_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"qlive/integration/lab"
)

// operators is the group of those who may operate VMs, by its number: it needs no name.
const (
	operators    = 43210
	forOperators = "group: \"43210\"\n"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAccess(t *testing.T) {
	program := lab.BuildProgram(t, "test") // once: it takes longer than what is tried with it
	for name, test := range map[string]func(*testing.T, string){
		"users": testUsers, "opened to others": testOpenedToOthers, "no group": testNoGroup, "crowd": testCrowd, "talker": testTalker,
		"TCP": testTCP, "refused configurations": testRefusedConfigurations,
	} {
		t.Run(name, func(t *testing.T) { test(t, program) })
	}
}

// user is one of the host's.
type user struct {
	uid, gid uint32
	groups   []uint32
}

func root() user     { return user{} }
func member() user   { return user{uid: 43001, gid: 43001, groups: []uint32{5, operators}} }
func stranger() user { return user{uid: 43002, gid: 43002} }

// scene is a daemon that other users can reach.
type scene struct {
	*lab.Daemon
	t *testing.T
}

func newScene(t *testing.T, program, config string) *scene {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test acts as several users and needs root")
	}
	s := &scene{lab.NewDaemon(t, lab.DaemonOptions{Program: program, Config: config}), t}
	if err := os.Chmod(s.Dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return s
}

// command is a program that u runs.
func (s *scene) command(u user, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.t.Context(), name, args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME=/")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.uid, Gid: u.gid, Groups: u.groups}}
	return cmd
}

// run runs a program as u.
func (s *scene) run(u user, name string, args ...string) (string, error) {
	out, err := s.command(u, name, args...).CombinedOutput()
	return string(out), err
}

// hold asks as u for something that does not end, until the test does. It gives what the answer begins with; a request that has a body,
// which curl reads from its input, never says what is in it.
func (s *scene) hold(u user, args ...string) io.Reader {
	s.t.Helper()
	cmd := s.command(u, "curl", append([]string{"-sN", "--unix-socket", s.Socket}, args...)...)
	input, err := cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // by the signal
		input.Close()
	})
	return output
}

// curl asks as u, and gives the status and the body; the status is 000 where there was no answer.
func (s *scene) curl(u user, path string, args ...string) (status, body string) {
	out, _ := s.run(u, "curl", append([]string{"-s", "-w", "\n%{http_code}", "--unix-socket", s.Socket, "http://qlive" + path}, args...)...)
	body, status, _ = cutLast(out, "\n")
	return status, body
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// write writes a command to vm1's ctl as u.
func (s *scene) write(u user, command string) (string, error) {
	return s.run(u, "bash", "-c", "echo "+command+" > "+filepath.Join(s.Mount, "vm1", "ctl"))
}

// await waits until a file of vm1's in the tree reads so.
func (s *scene) await(file, want string) {
	s.t.Helper()
	s.Eventually("vm1/"+file+" is "+want, func() error {
		if got := s.Cat("vm1", file); got != want {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
}

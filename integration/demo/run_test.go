package demo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/internal/proc"
)

// limit bounds a run, generously: machines are shared.
const limit = 3 * time.Minute

// program is the qlive that the tests run.
var program string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "qlive-program-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "qlive")
	if err := env.Build(context.Background(), program, "test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// run is a `qlive demo` that runs.
type run struct {
	t    *testing.T
	cmd  *exec.Cmd
	base string // the folder in which it makes its own
	out  *output
	done chan struct{}
	code int
}

// output is what a run has said so far.
type output struct {
	r    *os.File
	said bytes.Buffer
}

// start starts the demonstration, with a small guest, in a folder of the test's own.
func start(t *testing.T, env []string, args ...string) *run {
	t.Helper()
	return startIn(t, shortDir(t), env, args...)
}

// shortDir is a folder with a short path, as those of sockets have to be.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "qd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func startIn(t *testing.T, base string, env []string, args ...string) *run {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	x := &run{t: t, base: base, out: &output{r: r}, done: make(chan struct{})}
	x.cmd = exec.Command(program, append([]string{"demo", "--memory", "192", "--accel", "tcg", "--dir", base}, args...)...)
	x.cmd.Env = append(os.Environ(), env...)
	x.cmd.Stdout, x.cmd.Stderr = w, w
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		defer close(x.done)
		err := x.cmd.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			x.code = exit.ExitCode()
		} else if err != nil {
			x.code = -1
		}
	}()
	t.Cleanup(func() {
		_ = x.cmd.Process.Signal(os.Interrupt) // of a test that failed: it tidies up
		select {
		case <-x.done:
		case <-time.After(limit):
			_ = x.cmd.Process.Kill()
			<-x.done
		}
		r.Close()
	})
	return x
}

// until reads until the run has said word.
func (x *run) until(word string) {
	x.t.Helper()
	if err := x.out.r.SetReadDeadline(time.Now().Add(limit)); err != nil {
		x.t.Fatal(err)
	}
	buf := make([]byte, 1) // no more than up to the word: what follows may matter
	for !strings.HasSuffix(x.out.said.String(), word) {
		n, err := x.out.r.Read(buf)
		x.out.said.Write(buf[:n])
		if err != nil {
			x.t.Fatalf("%v before it said %q:\n%s", err, word, x.out.said.String())
		}
	}
}

// end waits for the end and gives all that was said, and the exit code.
func (x *run) end() (string, int) {
	x.t.Helper()
	if err := x.out.r.SetReadDeadline(time.Now().Add(limit)); err != nil {
		x.t.Fatal(err)
	}
	if _, err := io.Copy(&x.out.said, x.out.r); err != nil && !errors.Is(err, os.ErrClosed) {
		x.t.Fatalf("%v:\n%s", err, x.out.said.String())
	}
	select {
	case <-x.done:
	case <-time.After(limit):
		x.t.Fatalf("it goes on:\n%s", x.out.said.String())
	}
	return x.out.said.String(), x.code
}

func (x *run) signal(sig os.Signal) {
	x.t.Helper()
	if err := x.cmd.Process.Signal(sig); err != nil {
		x.t.Fatal(err)
	}
}

// traces are what is on this host of runs below base, and where a daemon would leave things that it was not told to
// put elsewhere: processes, mounts and files.
func traces(t *testing.T, base string) []string {
	t.Helper()
	var found []string
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range processes {
		environ, _ := os.ReadFile(dir + "/environ") // gone, or a kernel's own
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		if bytes.Contains(environ, []byte("="+base+"/")) || bytes.Contains(cmdline, []byte(base+"/")) {
			found = append(found, fmt.Sprintf("process %s: %s", filepath.Base(dir), bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	mounts, err := proc.ReadMounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.Point, base+"/") {
			found = append(found, "mount "+m.Point)
		}
	}
	files, err := filepath.Glob(base + "/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"/run/qlive", "/var/lib/qlive", "/mnt/qlive", "/run/qlive-demo-*", "/tmp/qlive-demo-*"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, more...)
	}
	for _, f := range files {
		found = append(found, "file "+f)
	}
	slices.Sort(found)
	return found
}

// gone fails the test if there is anything that was not there before.
func (x *run) gone(before []string) {
	x.t.Helper()
	if after := traces(x.t, x.base); !slices.Equal(before, after) {
		x.t.Errorf("before:\n  %s\nafter:\n  %s", strings.Join(before, "\n  "), strings.Join(after, "\n  "))
	}
}

// survivors are processes of the run that are not the demonstration itself.
func (x *run) survivors() []string {
	return slices.DeleteFunc(traces(x.t, x.base), func(s string) bool {
		return !strings.HasPrefix(s, "process ") || strings.HasPrefix(s, fmt.Sprintf("process %d:", x.cmd.Process.Pid))
	})
}

// The demonstration must be there before it is interrupted, or "nothing is left" shows nothing.
func (x *run) lives() {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), 10*time.Second)
	defer cancel()
	for len(x.survivors()) == 0 {
		if ctx.Err() != nil {
			x.t.Fatalf("there is no process of it: %v\n%s", traces(x.t, x.base), x.out.said.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func command(words ...string) *exec.Cmd { return exec.Command(words[0], words[1:]...) }

package faces_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/vmstate"
)

const (
	readerCount = 1000
	readPause   = time.Second // of each reader between two readings, as an agent that watches has it
)

// readings is what the readers tell when they are asked.
type readings struct {
	Least  int      `json:"least"` // how often each of them has read at least
	Count  int      `json:"count"` // all of them
	Errors []string `json:"errors"`

	mu   sync.Mutex
	each [readerCount]int
}

func (r *readings) note(i int, text []byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.each[i]++
	r.Count++
	if s := vmstate.Status(strings.TrimSpace(string(text))); err != nil || s != vmstate.Running && s != vmstate.Migrating {
		r.Errors = append(r.Errors, fmt.Sprintf("%q, %v", text, err))
	}
}

func (r *readings) tell() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Least = slices.Min(r.each[:])
	return json.NewEncoder(os.Stdout).Encode(r)
}

// readTree is the readers, in a process of their own: they read status until standard input ends. For each byte that comes it tells how it goes.
func readTree(dir string) int {
	stop := make(chan struct{})
	var r readings
	var all sync.WaitGroup
	for i := range readerCount {
		all.Go(func() {
			tick := time.NewTimer(readPause * time.Duration(i) / readerCount) // spread out
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				text, err := os.ReadFile(filepath.Join(dir, "vm1/status"))
				r.note(i, text, err)
				tick.Reset(readPause)
			}
		})
	}
	buf := make([]byte, 1)
	for {
		if _, err := os.Stdin.Read(buf); err != nil {
			break
		}
		if r.tell() != nil {
			return 1
		}
	}
	close(stop)
	all.Wait()
	if r.tell() != nil {
		return 1
	}
	return 0
}

// watchers are that process.
type watchers struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

func (s *scene) watchers(t *testing.T) *watchers {
	t.Helper()
	w := &watchers{cmd: exec.Command(os.Args[0])}
	w.cmd.Env = append(os.Environ(), readers+"="+s.Mount)
	w.cmd.Stderr = os.Stderr
	var err error
	if w.stdin, err = w.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := w.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.stdout = bufio.NewReader(stdout)
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.cmd.Process.Kill() // of a test that has failed; it holds the tree busy
		_ = w.cmd.Wait()
	})
	return w
}

// told reads what they tell.
func (w *watchers) told(t *testing.T) *readings {
	t.Helper()
	r := new(readings)
	line, err := w.stdout.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, r)
	}
	if err != nil {
		t.Fatalf("the readers say %q: %v", line, err)
	}
	return r
}

// everybody waits until each of them has read n times more.
func (w *watchers) everybody(t *testing.T, s *scene, n int) {
	t.Helper()
	least := -1
	s.Eventually("each reader has read", func() error {
		if _, err := w.stdin.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
		r := w.told(t)
		if least < 0 {
			least = r.Least
		}
		if r.Least < least+n {
			return fmt.Errorf("somebody has read %d times more; %d readings in all", r.Least-least, r.Count)
		}
		return nil
	})
}

func (w *watchers) signal(t *testing.T, sig unix.Signal) {
	t.Helper()
	if err := w.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// shown makes sure that whoever has been answered that a handoff is complete finds it so in the tree.
func (s *scene) shown(t *testing.T, m vmstate.Migration) {
	t.Helper()
	for range 20 {
		got := []string{s.Cat("vm1", "status"), s.Cat("vm1", "pid"), s.Cat("vm1", "migration", "id"), s.Cat("vm1", "migration", "phase")}
		if want := []string{"running", fmt.Sprint(m.To.PID), m.ID, "completed"}; !slices.Equal(got, want) {
			t.Fatalf("once it is said to be complete the tree says %q, want %q", got, want)
		}
	}
}

// told follows a handoff by its events, and makes sure that the tree shows what has been told, or what came after it.
func (s *scene) told(t *testing.T, m vmstate.Migration) {
	t.Helper()
	rank := func(p vmstate.Phase) int {
		return slices.IndexFunc(vmstate.Phases(), func(row vmstate.PhaseInfo) bool { return row.Phase == p })
	}
	l := s.listen(t, "/events", "")
	defer l.leave()
	for {
		e := l.next(t)
		var now vmstate.Migration
		switch e.name {
		case "reset":
			now = into[vmstate.Migration](t, s.ask(t, "GET", "/migrations/"+m.ID, ""), http.StatusOK) // it may be far already
		case "migration":
			if err := json.Unmarshal(e.data.Data, &now); err != nil {
				t.Fatal(err)
			}
		default:
			continue
		}
		if got := vmstate.Phase(s.Cat("migrations", m.ID, "phase")); now.ID == m.ID && rank(got) < rank(now.Phase) {
			t.Fatalf("when %s is told the tree says %s", now.Phase, got)
		}
		if now.ID == m.ID && now.Phase.Ended() {
			if now.Phase != vmstate.Completed {
				t.Fatalf("it is %s: %+v", now.Phase, now.Error)
			}
			return
		}
	}
}

// A thousand readers of status and a handoff do not wait for each other: each reader is answered, again and again, while a guest stands in
// the middle of its handoff, and a handoff goes through while readers are stopped wherever they are. What they cost each other where there are
// not processors enough is for `qlive bench --rows readers` to say.
func TestThousandReaders(t *testing.T) {
	s := newScene(t)
	w := s.watchers(t)
	w.everybody(t, s, 1)

	reached := s.blockAt(t, "flip.load.before")
	m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), MaxPauseMS: 600_000, TimeoutS: 600})
	reached()
	w.everybody(t, s, 2)
	if got := s.Cat("vm1", "status"); got != "migrating" {
		t.Errorf("in the middle of it the guest is %s", got)
	}
	s.points.Release("flip.load.before")
	s.reach(t, m.ID, vmstate.Completed)

	w.signal(t, unix.SIGSTOP)
	s.vm.HandOver(env.Installed, "")
	w.signal(t, unix.SIGCONT)

	for i := range 3 { // with all of them at it
		s.shown(t, s.vm.HandOver([]string{env.Newest, env.Installed}[i%2], ""))
	}
	s.told(t, s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Installed), MaxPauseMS: 20_000}))
	if err := w.stdin.Close(); err != nil {
		t.Error(err)
	}
	if r := w.told(t); len(r.Errors) > 0 || r.Least < 3 {
		t.Errorf("%d readings, errors %q", r.Count, r.Errors[:min(3, len(r.Errors))])
	} else {
		t.Logf("%d readings, everybody at least %d", r.Count, r.Least)
	}
	s.vm.CheckMemory()
}

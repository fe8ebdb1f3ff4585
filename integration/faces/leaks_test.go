package faces_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/proc"
	"qlive/vmstate"
)

// belongings are what the daemon, which lives in the test's own process, and its guest's QEMU have of what can leak.
type belongings struct {
	Daemon     map[string]int // descriptors, by what they are
	QEMU       map[string]int
	Processes  int
	Mounts     []string
	Goroutines map[string]int // by the function that they were started in
	Folder     []string       // of the VM in the run directory, without what each generation leaves as its log
	Pools      string         // of huge pages
}

var digits = regexp.MustCompile(`[0-9]+`)

func descriptors(t *testing.T, pid int) map[string]int {
	t.Helper()
	count := map[string]int{}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if link, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && link != dir {
			count[digits.ReplaceAllString(link, "N")]++
		}
	}
	return count
}

// mounts are the mount points of this process's mount namespace.
func mounts(t *testing.T) (list []string) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		list = append(list, strings.Fields(line)[4])
	}
	slices.Sort(list)
	return list
}

var createdBy = regexp.MustCompile(`(?m)^created by (\S+)`)

// goroutines counts those of the daemon by where they come from. Those of connections and of blocked system calls come and go with their clients.
func goroutines() map[string]int {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	count := map[string]int{}
	for _, m := range createdBy.FindAllStringSubmatch(string(buf), -1) {
		if strings.HasPrefix(m[1], "qlive/") {
			count[m[1]]++
		}
	}
	return count
}

func processes() int {
	children, _ := proc.Children(os.Getpid()) // /proc is always there
	return len(children)
}

func (s *scene) belongings(t *testing.T) belongings {
	t.Helper()
	s.Client.Close() // connections that wait for another request are no leak
	s.http.CloseIdleConnections()
	b := belongings{
		Daemon: descriptors(t, os.Getpid()), QEMU: descriptors(t, s.vm.Show().PID), Processes: processes(),
		Mounts: slices.DeleteFunc(mounts(t), func(at string) bool { return !strings.HasPrefix(at, s.Dir) }), Goroutines: goroutines(),
	}
	pools, err := proc.ReadPools()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pools {
		if p.Total == 0 { // else somebody else uses them
			b.Pools += fmt.Sprintf("%+v ", p)
		}
	}
	dir := filepath.Join(s.Dir, "run")
	written := 0 // of migrations, of which a number is kept
	logs := regexp.MustCompile(`/vms/vm1/g[0-9]+(/(qemu\.log|qmp\.log|process\.json|console\.(in|out)|own(/qmp\.sock)?))?$`)
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if ok, _ := filepath.Match(dir+"/vms/vm1/migrations/mig-*.json", path); ok { // the pattern is right
			written++
			return nil
		}
		if err == nil && !logs.MatchString(path) {
			b.Folder = append(b.Folder, strings.TrimPrefix(path, dir))
		}
		return nil // a file may go while we look
	})
	if err != nil {
		t.Fatal(err)
	}
	if written > 64 {
		t.Errorf("%d migrations are written down", written)
	}
	return b
}

// settled is what there is once nothing that a handoff has begun is still under way, such as the definition that is written after it.
func (s *scene) settled(t *testing.T) belongings {
	t.Helper()
	before := s.belongings(t)
	for deadline := time.Now().Add(lab.Limit); time.Now().Before(deadline); {
		time.Sleep(200 * time.Millisecond) // between two looks: there is nothing to wait for
		now := s.belongings(t)
		if cmp.Equal(before, now) {
			return now
		}
		before = now
	}
	t.Fatal("it never stands still")
	return before
}

// A series of 200 handoffs, 50 of them failed at every stage, leaves nothing: no descriptor, goroutine, process, mount, file or huge page.
func TestNothingLeaks(t *testing.T) {
	const all, failures = 200, 50
	s := newScene(t)
	s.vm.HandOver(env.Newest, "") // what is made once, such as a connection's buffers, is made now
	s.vm.HandOver(env.Installed, "")
	before := s.settled(t)
	for i := range all - failures {
		version := env.Installed // it starts the fastest
		if i < 2*len(vmstate.Ways()) {
			version = []string{env.Newest, env.Installed}[i%2]
		}
		s.vm.HandOver(version, vmstate.Ways()[i%len(vmstate.Ways())])
	}
	failed := s.failEverywhere(t) + s.failByTargets(t, failures)
	for range 3 {
		m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Hold: true})
		s.reach(t, m.ID, vmstate.Prepared)
		if _, err := s.Client.Cancel(t.Context(), m.ID); err != nil {
			t.Fatal(err)
		}
		s.reach(t, m.ID, vmstate.Aborted)
		failed++
	}
	if failed < failures {
		t.Errorf("%d handoffs failed, wanted %d", failed, failures)
	}
	var diff string
	for deadline := time.Now().Add(lab.Limit); ; time.Sleep(10 * time.Millisecond) {
		if diff = cmp.Diff(before, s.belongings(t)); diff == "" || time.Now().After(deadline) {
			break
		}
	}
	if diff != "" {
		t.Errorf("something is left (-before +after):\n%s", diff)
	}
	t.Logf("%d failed; descriptors %d, of QEMU %d, goroutines %v", failed, total(before.Daemon), total(before.QEMU), before.Goroutines)
	s.vm.CheckMemory()
}

// failEverywhere lets a handoff fail by each way at each stage, and tells how many have.
func (s *scene) failEverywhere(t *testing.T) (failed int) {
	t.Helper()
	for _, point := range []string{"flip.plan.after", "flip.start-target.before", "flip.start-target.after", "flip.compare-blocks.after", "flip.send-ahead.after",
		"flip.populate.before", "flip.hold.after", "flip.stop.after", "flip.load.before", "flip.load.after", "flip.switch.after", "flip.run-target.before"} {
		for _, way := range vmstate.Ways() {
			if way == vmstate.WayLive && point == "flip.stop.after" {
				continue // QEMU itself stops the guest then
			}
			if err := s.points.Arm(point, "1*error(a fault that was made)"); err != nil {
				t.Fatal(err)
			}
			if m := s.vm.Migrate(vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Installed), Way: way}); m.Phase != vmstate.RolledBack {
				t.Fatalf("at %s, %s: %s, %+v", point, way, m.Phase, m.Error)
			}
			failed++
		}
	}
	return failed
}

// failByTargets lets at least n handoffs fail because of what their targets do, and tells how many have.
func (s *scene) failByTargets(t *testing.T, n int) (failed int) {
	t.Helper()
	dir, err := os.MkdirTemp("", "qlive-targets-") // every folder on the way must be root's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	qemu := s.Env.QEMU(env.Installed)
	targets := map[string]string{
		"ends":     "exit 1",
		"no RAM":   `case "$*" in *"-incoming defer"*) ulimit -v 400000 ;; esac; exec ` + qemu + ` "$@"`,
		"a child":  `case "$*" in *"-incoming defer"*) sleep 1000 & ;; esac; ` + qemu + ` "$@"`,
		"no files": `case "$*" in *"-incoming defer"*) ulimit -n 6 ;; esac; exec ` + qemu + ` "$@"`,
	}
	for name, text := range targets {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for failed = 0; failed < n/4; {
		for name := range targets {
			m := s.vm.Migrate(vmstate.MigrationSpec{Binary: filepath.Join(dir, name)})
			if m.Phase != vmstate.RolledBack {
				t.Fatalf("%s: %s, %+v", name, m.Phase, m.Error)
			}
			failed++
		}
	}
	return failed
}

func total(count map[string]int) (n int) {
	for v := range maps.Values(count) {
		n += v
	}
	return n
}

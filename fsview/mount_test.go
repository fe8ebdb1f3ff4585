package fsview_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"qlive/fsview"
	"qlive/vmstate"
)

var update = flag.Bool("update", false, "write golden files anew")

// childDir is the environment variable by which the test binary becomes a process that mounts a tree there, says so,
// and stays.
const childDir = "FSVIEW_TEST_MOUNT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(serveForever(dir))
	}
	goleak.VerifyTestMain(m)
}

func serveForever(dir string) int {
	if _, err := fsview.Mount(context.Background(), dir, newFake(example()), fsview.Options{}); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("mounted")
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the test
	return 0
}

// mount mounts source's tree for the time of the test.
func mount(t *testing.T, source *fake, opts fsview.Options) *fsview.FS {
	t.Helper()
	return mountOn(t, t.TempDir(), source, opts)
}

func mountOn(t *testing.T, dir string, source *fake, opts fsview.Options) *fsview.FS {
	t.Helper()
	opts.Logger = zerolog.New(zerolog.NewTestWriter(t))
	tree, err := fsview.Mount(t.Context(), dir, source, opts)
	if err != nil {
		t.Fatalf("cannot mount: %v", err)
	}
	t.Cleanup(func() {
		source.close()
		closeTree(t, tree)
	})
	return tree
}

func closeTree(t *testing.T, tree *fsview.FS) {
	t.Helper()
	if err := tree.Close(context.Background()); err != nil {
		t.Errorf("cannot close: %v", err)
	}
	if mounts := mountsOn(t, tree.Dir()); mounts != 0 {
		t.Errorf("%s is still mounted %d times", tree.Dir(), mounts)
	}
}

func mountsOn(t *testing.T, dir string) int {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(table), " "+dir+" ")
}

// eventually waits until what is true, for at most ten seconds.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// child starts a process that mounts a tree on dir. It is killed at the end of the test.
func child(t *testing.T, dir string) *os.Process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	})
	said := make([]byte, 200)
	if n, err := out.Read(said); string(said[:n]) != "mounted\n" {
		t.Fatalf("the child could not mount: %s, %v", said[:n], err)
	}
	return cmd.Process
}

func TestMountRefuses(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(full, "precious")
	foreign := t.TempDir()
	if err := unix.Mount("none", foreign, "tmpfs", 0, "size=4096"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(foreign, unix.MNT_DETACH) })
	live := mount(t, newFake(example()), fsview.Options{}).Dir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(live, link); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, dir string
		kind      vmstate.Kind
		says      string
	}{
		{"missing folder", filepath.Join(full, "no", "such"), vmstate.NotFound, "no such file"},
		{"missing last part", filepath.Join(full, "no"), vmstate.NotFound, "no such file"},
		{"not empty", full, vmstate.Conflict, `it contains "precious"`},
		{"a file", file, vmstate.Conflict, "it is not a folder"},
		{"another file system", foreign, vmstate.Conflict, "type tmpfs"},
		{"another live tree", live, vmstate.Conflict, "another qlive daemon"},
		{"another live tree through a link", link, vmstate.Conflict, "another qlive daemon"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := mountsOn(t, c.dir)
			tree, err := fsview.Mount(t.Context(), c.dir, newFake(example()), fsview.Options{})
			if err == nil {
				closeTree(t, tree)
				t.Fatal("mounted")
			}
			problem := vmstate.ProblemOf(err)
			if problem.Kind() != c.kind || !strings.Contains(problem.Detail, c.says) || problem.Remedy == "" {
				t.Errorf("%s: %s (remedy %q), not %s: … %s …", problem.Kind(), problem.Detail, problem.Remedy, c.kind, c.says)
			}
			if after := mountsOn(t, c.dir); after != before {
				t.Errorf("%d mounts on %s, %d before", after, c.dir, before)
			}
		})
	}
}

func TestMountNames(t *testing.T) {
	for _, name := range []string{"with blank", "back\\slash", "tab\tand\nnewline", "comma,colon:", "ünïcödé\u00a0"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			tree := mountOn(t, dir, newFake(example()), fsview.Options{})
			if _, err := fsview.Mount(t.Context(), dir, newFake(example()), fsview.Options{}); vmstate.KindOf(err) != vmstate.Conflict {
				t.Errorf("mounting again: %v", err)
			}
			if _, err := os.ReadFile(filepath.Join(tree.Dir(), "vm1", "status")); err != nil {
				t.Error(err)
			}
			closeTree(t, tree)
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
				t.Errorf("after unmounting: %v, %v", entries, err)
			}
		})
	}
}

func TestRemountAfterKill(t *testing.T) {
	dir := t.TempDir()
	dead := child(t, dir)
	// Somebody still holds a file of the dead tree.
	held, err := os.Open(filepath.Join(dir, "vm1", "status"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := dead.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the dead tree says so", func() bool {
		_, err := os.Stat(dir)
		return errors.Is(err, syscall.ENOTCONN)
	})
	tree := mountOn(t, dir, newFake(example()), fsview.Options{})
	if data, err := os.ReadFile(filepath.Join(dir, "vm1", "status")); string(data) != "running\n" {
		t.Errorf("status is %q, %v", data, err)
	}
	if n := mountsOn(t, tree.Dir()); n != 1 {
		t.Errorf("mounted %d times: the dead tree is still below", n)
	}
}

func TestRemountAfterSeveralKills(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // the second child clears away what the first left
		p := child(t, dir)
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the dead tree says so", func() bool {
			_, err := os.Stat(dir)
			return errors.Is(err, syscall.ENOTCONN)
		})
	}
	mountOn(t, dir, newFake(example()), fsview.Options{})
}

func TestMountOverStoppedDaemon(t *testing.T) {
	dir := t.TempDir()
	p := child(t, dir)
	if err := p.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child is stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
		return err == nil && strings.Contains(string(stat), ") T ")
	})
	_, err := fsview.Mount(t.Context(), dir, newFake(example()), fsview.Options{})
	if vmstate.KindOf(err) != vmstate.Conflict || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("mounting where a daemon is stopped: %v", err)
	}
	if err := p.Kill(); err != nil { // lets the question that was asked end, too
		t.Fatal(err)
	}
}

func TestDeviceIsNotInherited(t *testing.T) {
	dir := t.TempDir()
	fd, err := fsview.MountFUSE(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the descriptor is not close-on-exec from the start: %#x, %v", flags, err)
	}
	unix.Close(fd)
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}

	mount(t, newFake(example()), fsview.Options{})
	mine, err := exec.Command("sh", "-c", fmt.Sprintf("ls -l /proc/%d/fd", os.Getpid())).Output()
	if err != nil || !strings.Contains(string(mine), "/dev/fuse") {
		t.Fatalf("this process should hold /dev/fuse: %v\n%s", err, mine)
	}
	its, err := exec.Command("ls", "-l", "/proc/self/fd").Output()
	if err != nil || len(its) == 0 || strings.Contains(string(its), "/dev/fuse") {
		t.Errorf("a child has /dev/fuse: %v\n%s", err, its)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestNothingLeaks(t *testing.T) {
	dir := t.TempDir()
	round := func() {
		source := newFake(example())
		tree, err := fsview.Mount(t.Context(), dir, source, fsview.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.ReadFile(filepath.Join(dir, "vm1", "state.json")); err != nil {
			t.Fatal(err)
		}
		events, err := os.Open(filepath.Join(dir, "events"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := events.Read(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		events.Close()
		closeTree(t, tree)
		if n := source.listeners(); n != 0 {
			t.Fatalf("%d subscriptions are left", n)
		}
	}
	round()
	before := descriptors(t)
	for range 50 {
		round()
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors after 50 rounds, %d before", after, before)
	}
	goleak.VerifyNone(t)
}

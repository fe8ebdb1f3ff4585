package fsview_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/fsview"
	"qlive/vmstate"
)

const (
	stranger  = 65534
	operators = 4711 // a group
)

// mountForAll mounts a tree where other users can reach it. t.TempDir lets nobody in.
func mountForAll(t *testing.T, source *fake, opts fsview.Options) *fsview.FS {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "tree")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	opts.AllowOther = true
	return mountOn(t, dir, source, opts)
}

// as is a program that another user runs.
func as(uid, gid uint32, groups []uint32, name string, args ...string) *exec.Cmd {
	cmd := command(name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
	return cmd
}

// Real users, as the kernel tells them.
func TestAccess(t *testing.T) {
	closed := vmstate.Trust{Group: operators}
	open := vmstate.Trust{Group: operators, Others: vmstate.RoleRead}
	for _, c := range []struct {
		name     string
		trust    vmstate.Trust
		uid, gid uint32
		groups   []uint32
		reads    bool
		commands bool
	}{
		{"root", closed, 0, 0, nil, true, true},
		{"a stranger", closed, stranger, stranger, nil, false, false},
		{"a stranger, let in", open, stranger, stranger, nil, true, false},
		{"of root's group", closed, stranger, 0, nil, false, false},
		{"of root's group, no operators", vmstate.Trust{}, stranger, 0, []uint32{0}, false, false},
		{"a member by the first group", closed, stranger, operators, nil, true, true},
		{"a member by another group", closed, stranger, stranger, []uint32{1, operators, 2}, true, true},
		{"a stranger, no operators", vmstate.Trust{Others: vmstate.RoleRead}, stranger, operators, nil, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			source := newFake(example())
			callers := make(chan fsview.Caller, 1)
			source.control = record(callers)
			tree := mountForAll(t, source, fsview.Options{Trust: c.trust})
			run := func(script string) error { return as(c.uid, c.gid, c.groups, "sh", "-c", script).Run() }
			if err := run("cat " + tree.Dir() + "/vm1/status"); (err == nil) != c.reads {
				t.Errorf("reading: %v", err)
			}
			if err := run("ls " + tree.Dir()); (err == nil) != c.reads {
				t.Errorf("listing: %v", err)
			}
			if err := run("echo pause > " + tree.Dir() + "/vm1/ctl"); (err == nil) != c.commands {
				t.Errorf("commanding: %v", err)
			}
			if !c.commands {
				return
			}
			who := <-callers
			if who.UID != c.uid || who.GID != c.gid || who.PID == 0 || len(who.Groups) != 1+len(c.groups) {
				t.Errorf("the caller was %+v", who)
			}
		})
	}
}

// An open ctl in other hands does no more than both its opener and its writer may.
func TestPassedOn(t *testing.T) {
	source := newFake(example())
	callers := make(chan fsview.Caller, 1)
	source.control = record(callers)
	tree := mountForAll(t, source, fsview.Options{Trust: vmstate.Trust{Group: operators}})
	f, err := os.OpenFile(filepath.Join(tree.Dir(), "vm1", "ctl"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	give := func(uid, gid uint32) (string, error) {
		cmd := as(uid, gid, nil, "bash", "-c", "echo pause >&3")
		cmd.ExtraFiles = []*os.File{f}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := give(stranger, stranger); err == nil || !strings.Contains(out, "Operation not permitted") {
		t.Errorf("a stranger writes what root has opened: %v, %s", err, out)
	}
	why, err := os.ReadFile(filepath.Join(tree.Dir(), "vm1", "migration", "error"))
	for _, want := range []string{"with the role none", "needs the role operate", "kind: denied", "remedy: use sudo"} {
		if err != nil || !strings.Contains(string(why), want) {
			t.Errorf("no %q in %q, %v", want, why, err)
		}
	}
	if out, err := give(stranger, operators); err != nil {
		t.Errorf("a member writes what root has opened: %v, %s", err, out)
	}
	if who := <-callers; who.UID != stranger {
		t.Errorf("the caller was %+v", who)
	}
}

// What the kernel promises and the rights of writers rest on: a thread sleeps until its write is answered, killed or not, so that its number in
// /proc is its own for as long as it is asked about.
func TestWriterStaysUntilAnswered(t *testing.T) {
	source := newFake(example())
	arrived, answer := make(chan fsview.Caller), make(chan struct{})
	source.control = hold(arrived, answer)
	tree := mount(t, source, fsview.Options{})
	writer := command("sh", "-c", "echo pause > "+filepath.Join(tree.Dir(), "vm1", "ctl"))
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	caller := <-arrived
	if err := writer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the signal has come", func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", caller.PID))
		return err == nil && strings.Contains(string(status), "Pnd:\t0000000000000100")
	})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", caller.PID))
	if err != nil {
		t.Fatal(err)
	}
	if uid, gid, _, ok := fsview.ParseCredentials(status); !ok || uid != 0 || gid != 0 {
		t.Errorf("the writer is %d:%d, %v\n%s", uid, gid, ok, status)
	}
	close(answer)
	if err := writer.Wait(); err == nil {
		t.Error("the writer has not been killed")
	}
}

// One user cannot take all places of readers, and no users those of root.
func TestPlacesOfReaders(t *testing.T) {
	source := newFake(example())
	tree := mountForAll(t, source, fsview.Options{
		Trust: vmstate.Trust{Others: vmstate.RoleRead}, MaxEventReaders: 3, MaxEventReadersPerUser: 2,
	})
	name := filepath.Join(tree.Dir(), "events")
	read := func(uid uint32) error {
		cmd := as(uid, uid, nil, "cat", name)
		before := source.listeners()
		out, errs := new(strings.Builder), new(strings.Builder)
		cmd.Stdout, cmd.Stderr = out, errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		var refused error
		eventually(t, "the reader reads, or has ended", func() bool {
			select {
			case err := <-ended:
				refused = errors.Join(err, errors.New(errs.String()))
				return true
			default:
				return source.listeners() > before
			}
		})
		return refused
	}
	for i, c := range []struct {
		uid uint32
		ok  bool
	}{{1001, true}, {1001, true}, {1001, false}, {1002, true}, {1002, false}, {0, true}, {0, true}, {0, true}, {0, false}} {
		err := read(c.uid)
		if (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "Too many open files") {
			t.Errorf("reader %d, user %d: %v", i, c.uid, err)
		}
	}
}

func TestParseCredentials(t *testing.T) {
	const good = "Name:\tsh\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t9 10 \nNStgid:\t7\n"
	for _, c := range []struct {
		name, status string
		groups       string
		ok           bool
	}{
		{"good", good, "[9 10]", true},
		{"no groups", strings.Replace(good, "9 10 ", "", 1), "[]", true},
		{"no line of groups", strings.Replace(good, "Groups:", "Group:", 1), "[]", false},
		{"twice", good + "Uid:\t0\t0\t0\t0\n", "[]", false},
		{"a name that is a line", strings.Replace(good, "sh", "Uid:\\t0", 1), "[9 10]", true}, // the kernel escapes newlines
		{"three numbers", strings.Replace(good, "\t4\n", "\n", 1), "[]", false},
		{"negative", strings.Replace(good, "\t4\n", "\t-4\n", 1), "[]", false},
		{"too large", strings.Replace(good, "9 10", "4294967296", 1), "[]", false},
		{"nothing", "", "[]", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			uid, gid, groups, ok := fsview.ParseCredentials([]byte(c.status))
			if ok != c.ok || ok && (uid != 4 || gid != 8) || fmt.Sprint(groups) != c.groups {
				t.Errorf("%d, %d, %v, %v", uid, gid, groups, ok)
			}
		})
	}
	own, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	if uid, gid, _, ok := fsview.ParseCredentials(own); !ok || int(uid) != unix.Geteuid() || int(gid) != unix.Getegid() {
		t.Errorf("this thread is %d, %d, %v", uid, gid, ok)
	}
}

func FuzzParseCredentials(f *testing.F) {
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(own)
	f.Add([]byte("Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n"))
	f.Add([]byte("Uid:\t\nUid:"))
	f.Fuzz(func(t *testing.T, status []byte) {
		uid, gid, groups, ok := fsview.ParseCredentials(status)
		if !ok && (uid != 0 || gid != 0 || groups != nil) {
			t.Errorf("%q: %d, %d, %v though it cannot be read", status, uid, gid, groups)
		}
		if len(groups) > len(status) {
			t.Errorf("%d groups in %d bytes", len(groups), len(status))
		}
	})
}

// Every verb says who may give it.
func TestRolesOfVerbs(t *testing.T) {
	for _, verb := range fsview.Verbs() {
		if needs, known := verb.Role(); !known || needs < vmstate.RoleOperate {
			t.Errorf("%s is for %s, %v", verb, needs, known)
		}
	}
	if _, known := fsview.Verb("explode").Role(); known {
		t.Error("somebody may give a verb that there is not")
	}
}

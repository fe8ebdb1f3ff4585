package fsview_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/fsview"
)

func TestClose(t *testing.T) {
	t.Run("with a reader waiting for events", func(t *testing.T) {
		source := newFake(example())
		tree := mount(t, source, fsview.Options{})
		cat := startCat(t, tree)
		cat.line(t) // the whole state: from now on it waits
		closeTree(t, tree)
		cat.ends(t)
		if n := source.listeners(); n != 0 {
			t.Errorf("%d subscriptions are left", n)
		}
	})
	t.Run("with somebody inside", func(t *testing.T) {
		tree := mount(t, newFake(example()), fsview.Options{})
		inside := inTree(t, tree)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := tree.Close(ctx); err != nil {
			t.Errorf("cannot close: %v", err)
		}
		if n := mountsOn(t, tree.Dir()); n != 0 {
			t.Errorf("still mounted %d times", n)
		}
		inside.Kill()
	})
	t.Run("with a copy of the mount in another namespace", func(t *testing.T) {
		tree := mount(t, newFake(example()), fsview.Options{})
		cmd := exec.Command("sleep", "600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		closeTree(t, tree)
		if n := mountsOn(t, tree.Dir()); n != 0 {
			t.Errorf("still mounted %d times", n)
		}
	})
	t.Run("with events open, and more to come", func(t *testing.T) {
		source := newFake(example())
		tree := mount(t, source, fsview.Options{})
		name := filepath.Join(tree.Dir(), "events")
		held, err := os.Open(name) // and never read
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		ctx, cancel := context.WithCancel(t.Context())
		closed := make(chan error, 1)
		go func() { closed <- tree.Close(ctx) }()
		eventually(t, "new readers are refused", func() bool {
			f, err := os.Open(name)
			if err == nil {
				f.Close()
			}
			return errors.Is(err, unix.ESHUTDOWN)
		})
		cancel()
		if err := <-closed; err != nil {
			t.Errorf("cannot close: %v", err)
		}
		if n := source.listeners(); n != 0 {
			t.Errorf("%d subscriptions are left", n)
		}
	})
	t.Run("after somebody has detached it", func(t *testing.T) {
		tree := mount(t, newFake(example()), fsview.Options{})
		inTree(t, tree)
		if err := unix.Unmount(tree.Dir(), unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := tree.Close(ctx); err != nil {
			t.Errorf("cannot close: %v", err)
		}
	})
	t.Run("after somebody has unmounted it and mounted something else", func(t *testing.T) {
		tree := mount(t, newFake(example()), fsview.Options{})
		if err := unix.Unmount(tree.Dir(), 0); err != nil {
			t.Fatal(err)
		}
		<-tree.Done()
		if err := unix.Mount("none", tree.Dir(), "tmpfs", 0, "size=4096"); err != nil {
			t.Fatal(err)
		}
		if err := tree.Close(t.Context()); err != nil {
			t.Errorf("cannot close: %v", err)
		}
		if n := mountsOn(t, tree.Dir()); n != 1 {
			t.Errorf("what was mounted later is mounted %d times", n)
		}
		if err := unix.Unmount(tree.Dir(), 0); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("twice", func(t *testing.T) {
		tree := mount(t, newFake(example()), fsview.Options{})
		closeTree(t, tree)
		closeTree(t, tree)
	})
	t.Run("while a command waits", func(t *testing.T) {
		source := newFake(example())
		began := make(chan struct{})
		source.control = func(ctx context.Context, _ string, _ fsview.Command, _ fsview.Caller) error {
			close(began)
			<-ctx.Done()
			return ctx.Err()
		}
		tree := mount(t, source, fsview.Options{})
		wrote := make(chan error, 1)
		go func() { wrote <- target(tree).WriteCtl(t, "vm1", "pause\n") }()
		<-began
		closeTree(t, tree)
		if err := <-wrote; !errors.Is(err, unix.ESHUTDOWN) {
			t.Errorf("the command ended with %v, not ESHUTDOWN", err)
		}
	})
}

// inTree starts a process whose working folder is in the tree.
func inTree(t *testing.T, tree *fsview.FS) *os.Process {
	t.Helper()
	cmd := exec.Command("sh", "-c", `cd "$0" && echo there && exec sleep 1000`, filepath.Join(tree.Dir(), "vm1"))
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
	})
	if _, err := io.ReadFull(out, make([]byte, len("there\n"))); err != nil {
		t.Fatalf("cannot get into the tree: %v", err)
	}
	return cmd.Process
}

package fstest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"qlive/vmstate"
)

// Output runs a program and gives its standard output; it must succeed within a minute.
func Output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, stderr, err := output(t, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, stderr)
	}
	return out
}

func output(t *testing.T, name string, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var o, e bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = &o, &e, append(os.Environ(), "LC_ALL=C")
	err = cmd.Run()
	return o.String(), e.String(), err
}

func walkers(t *testing.T, tree Target) {
	listing := Output(t, "ls", "-lR", tree.path(tree.VM))
	for _, want := range []string{"status", "regions", "size_bytes", "migration", "-r--", "dr-x"} {
		if !strings.Contains(listing, want) {
			t.Errorf("ls -lR does not show %s:\n%s", want, listing)
		}
	}
	found := strings.Fields(Output(t, "find", tree.path(tree.VM), "-name", "status", "-type", "f"))
	if !slices.Equal(found, []string{tree.path(tree.VM, "status")}) {
		t.Errorf("find finds %q", found)
	}
	machine := tree.Read(t, tree.VM, "machine")
	hits := strings.Fields(Output(t, "grep", "-rlFx", "--exclude=ctl", "--exclude-dir=migration", machine, tree.path(tree.VM)))
	if !slices.Contains(hits, tree.path(tree.VM, "machine")) {
		t.Errorf("grep -rlFx %q finds %q", machine, hits)
	}
	for _, args := range [][]string{{"head", "-1"}, {"tail", "-1"}, {"sort"}, {"awk", "1"}, {"dd", "status=none", "bs=1", "if="}} {
		file := tree.path(tree.VM, "machine")
		if n := len(args) - 1; strings.HasSuffix(args[n], "=") {
			args[n] += file
		} else {
			args = append(args, file)
		}
		if got := Output(t, args[0], args[1:]...); got != machine+"\n" {
			t.Errorf("%q gives %q, not %q", args, got, machine)
		}
	}
}

func copier(t *testing.T, tree Target) {
	to := filepath.Join(t.TempDir(), "copy")
	Output(t, "cp", "-r", tree.path(tree.VM, "regions"), to)
	err := filepath.WalkDir(to, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Size() == 0 {
			t.Errorf("%s was copied as empty", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "console")
	Output(t, "cp", tree.path(tree.VM, "console"), name)
	copied, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(tree.path(tree.VM, "console"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(now, copied) {
		t.Errorf("the copy of the console (%d bytes) is not how it began (%d bytes)", len(copied), len(now))
	}
}

// cat compares what a child process reads with what this one does, for values that do not change by themselves.
func cat(t *testing.T, tree Target) {
	for _, name := range []string{"machine", "ram_bytes", "qemu_binary"} {
		out := Output(t, "cat", tree.path(tree.VM, name))
		if want := tree.Read(t, tree.VM, name) + "\n"; out != want {
			t.Errorf("cat %s gives %q, not %q", name, out, want)
		}
	}
}

func firstEvent(t *testing.T, tree Target) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "cat", tree.path("events"))
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	first, err := bufio.NewReaderSize(pipe, 1<<20).ReadBytes('\n')
	if err != nil {
		t.Fatalf("cannot read the first event: %v", err)
	}
	var event struct {
		Type vmstate.EventType
		At   time.Time
		Data vmstate.State
	}
	if err := json.Unmarshal(first, &event); err != nil {
		t.Fatal(err)
	}
	has := slices.ContainsFunc(event.Data.VMs, func(vm vmstate.VM) bool { return vm.Name == tree.VM })
	if event.Type != vmstate.EventReset || !has || event.At.IsZero() {
		t.Errorf("the first event is not the whole state: %.300s", first)
	}
}

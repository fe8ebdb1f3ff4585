package stage

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"qlive/integration/guest/wire"
)

// say writes beats on the console of a generation.
func say(t *testing.T, vms string, generation int, beats ...uint64) {
	t.Helper()
	dir := filepath.Join(vms, "vm1", "g"+strconv.Itoa(generation))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "console.out"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, seq := range beats {
		if _, err := f.Write(wire.Beat{Seq: seq, Micros: int64(seq) * 2000}.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
}

// look makes the witness look so often that it finds what is new.
func look(w *Witness) {
	for range findEach + 1 {
		w.Look()
	}
}

func TestWitnessHears(t *testing.T) {
	for _, tt := range []struct {
		name string
		then func(*testing.T, string, *Witness)
		says string // empty: nothing is wrong
	}{
		{"the next QEMU goes on", func(t *testing.T, vms string, w *Witness) { say(t, vms, 1, 3, 4) }, ""},
		{"both have written since the last look", func(t *testing.T, vms string, w *Witness) { say(t, vms, 0, 3); say(t, vms, 1, 4) }, ""},
		{"the earlier QEMU speaks again", func(t *testing.T, vms string, w *Witness) { say(t, vms, 1, 3); look(w); say(t, vms, 0, 4) }, "after it has written in generation 1"},
		{"a beat is lost", func(t *testing.T, vms string, w *Witness) { say(t, vms, 1, 4) }, "1 beats lost"},
		{"a beat is repeated", func(t *testing.T, vms string, w *Witness) { say(t, vms, 1, 2, 3) }, "1 beats repeated"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			vms := t.TempDir()
			w := NewWitness(vms, "vm1")
			defer w.Close()
			say(t, vms, 0, 1, 2)
			look(w)
			tt.then(t, vms, w)
			look(w)
			if err := w.Check(); (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %q", err, tt.says)
			}
		})
	}
}

// busy starts what looks like a QEMU whose vCPU runs.
func busy(t *testing.T, vms string, generation int) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `echo "CPU 0/TCG" > /proc/$$/comm; while :; do :; done`, "qemu-system", filepath.Join(vms, "vm1", "g"+strconv.Itoa(generation))+"/")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it is waited for below, so that the number is its
		_ = cmd.Wait()
	})
}

func TestWitnessSees(t *testing.T) {
	vms := t.TempDir()
	w := NewWitness(vms, "vm1")
	defer w.Close()
	busy(t, vms, 0)
	runs := func(generation int) error {
		return Eventually(t.Context(), "it is seen to run", Limit, func() error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.runner == nil || w.runner.Generation != generation {
				return os.ErrNotExist
			}
			return nil
		})
	}
	if err := runs(0); err != nil {
		t.Fatal(err)
	}
	if err := w.Check(); err != nil {
		t.Errorf("one runs: %v", err)
	}
	busy(t, vms, 1)
	if err := runs(1); err != nil {
		t.Fatal(err)
	}
	err := Eventually(t.Context(), "two that run are found fault with", Limit, func() error {
		if w.Check() == nil {
			return os.ErrNotExist
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

package qemu_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
)

// console makes a console's FIFO, and starts a process that has it open as a QEMU has, for reading and writing, and does not read.
func console(t *testing.T) (cmdline.Console, *qemu.Process) {
	t.Helper()
	dir := t.TempDir()
	c := cmdline.Console{ID: "console", Input: filepath.Join(dir, "console.in"), Log: filepath.Join(dir, "console.out")}
	if err := qemu.MakePlaces(dir, &cmdline.Line{Consoles: []cmdline.Console{c}, Monitor: filepath.Join(dir, "own", "qmp.sock")}, nil); err != nil {
		t.Fatal(err)
	}
	p := sh(t, "exec 7<>"+c.Input+"; echo ready; exec sleep 1000")
	said(t, p, "ready")
	return c, p
}

func TestTakeInput(t *testing.T) {
	c, p := console(t)
	for _, text := range []string{"", "what was typed\n", strings.Repeat("x", 40_000)} {
		if n, err := qemu.WriteInput(c, []byte(text)); n != len(text) || err != nil {
			t.Fatalf("%d of %d bytes written: %v", n, len(text), err)
		}
		if got, err := p.TakeInput(c); string(got) != text || err != nil {
			t.Errorf("%d bytes were taken back of %d: %v", len(got), len(text), err)
		}
	}
	var flags int
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/7", p.PID()))
	if err == nil {
		_, after, _ := strings.Cut(string(text), "flags:")
		_, err = fmt.Sscanf(after, "%o", &flags)
	}
	const nonblock = 0o4000 // O_NONBLOCK, as proc(5) shows it
	if err != nil || flags&nonblock == 0 {
		t.Errorf("the process would wait for what was taken from it: flags %o, %v", flags, err)
	}
}

func TestWriteInputDoesNotWait(t *testing.T) {
	c, p := console(t)
	total := 0
	for range 100 {
		n, err := qemu.WriteInput(c, make([]byte, 4096))
		if err != nil {
			t.Fatal(err)
		}
		if total += n; n == 0 {
			break
		}
	}
	if got, err := p.TakeInput(c); total == 0 || total >= 100*4096 || len(got) != total || err != nil {
		t.Errorf("%d bytes fit, and %d were taken back: %v", total, len(got), err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	over(t, p)
	if n, err := qemu.WriteInput(c, []byte("x")); err == nil {
		t.Errorf("%d bytes were written for a process that has ended", n)
	}
}

// A process that has not the FIFO open is left alone, and nothing is taken that it might be about to read.
func TestTakeInputOfAnother(t *testing.T) {
	c, _ := console(t)
	_, other := console(t)
	if _, err := qemu.WriteInput(c, []byte("mine")); err != nil {
		t.Fatal(err)
	}
	if got, err := other.TakeInput(c); err == nil {
		t.Errorf("%q was taken from a process that cannot read it", got)
	}
}

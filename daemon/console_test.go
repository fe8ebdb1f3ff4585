package daemon

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qlive/flip"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
)

// seat is a generation with a console, whose process has it open as a QEMU has and never reads.
func seat(t *testing.T) *generation {
	t.Helper()
	dir := t.TempDir()
	c := cmdline.Console{ID: "console", Input: filepath.Join(dir, "console.in"), Log: filepath.Join(dir, "console.out")}
	line := &cmdline.Line{Consoles: []cmdline.Console{c}, Monitor: filepath.Join(dir, "own", "qmp.sock")}
	must(t, qemu.MakePlaces(dir, line, nil))
	shell, err := qemu.Admit("/bin/sh", nil)
	must(t, err)
	p, err := qemu.Start(qemu.Command{Binary: shell, Args: []string{"-c", "exec 7<>" + c.Input + "; exec sleep 1000"}, Log: filepath.Join(dir, "log")})
	must(t, err)
	t.Cleanup(func() {
		must(t, p.Kill())
		<-p.Done()
		must(t, p.Release())
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) { // until it has opened it
		if _, err := qemu.WriteInput(c, nil); err == nil {
			return &generation{line: line, side: &flip.Side{Process: p}}
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// typeAll types all of a text, for which there must be room.
func typeAll(t *testing.T, m *machine, text string) {
	t.Helper()
	if n, err := m.put([]byte(text)); n != len(text) || err != nil {
		t.Errorf("%d of %d bytes of input taken: %v", n, len(text), err)
	}
}

// waits is what a generation has not read yet; it takes it away.
func waits(t *testing.T, g *generation) string {
	t.Helper()
	text, err := g.side.Process.TakeInput(g.line.Consoles[0])
	must(t, err)
	return string(text)
}

// Neither QEMU gets anything while a handoff switches, and afterwards the one that has the guest gets all of it in order.
func TestKeyboard(t *testing.T) {
	for _, moved := range []bool{true, false} {
		source, target := seat(t), seat(t)
		m := &machine{current: source}
		m.heed() // means nothing
		typeAll(t, m, "before ")
		m.hush()
		typeAll(t, m, "meanwhile ")
		if a, b := waits(t, source), waits(t, target); a != "" || b != "" {
			t.Errorf("while it switches the source can read %q, the target %q", a, b)
		}
		heir := source
		if moved {
			heir = target
			m.current = target
		}
		m.heed()
		m.heed() // gives nothing twice
		typeAll(t, m, "after")
		if got := waits(t, heir); got != "before meanwhile after" {
			t.Errorf("moved %t: it gets %q", moved, got)
		}
		if got := waits(t, source); got != "" {
			t.Errorf("moved %t: for the source is left %q", moved, got)
		}
	}
}

// What is kept has its bound, and fits into the next QEMU's FIFO.
func TestKeyboardBound(t *testing.T) {
	source, target := seat(t), seat(t)
	m := &machine{current: source}
	text := strings.Repeat("0123456789abcdef", keptInput/16)
	typeAll(t, m, text[:keptInput/2])
	m.hush()
	typeAll(t, m, text[keptInput/2:])
	if n, err := m.put([]byte("x")); n != 0 || err != nil {
		t.Errorf("%d bytes too many were taken, %v", n, err)
	}
	m.current = target
	m.heed()
	if got := waits(t, target); got != text {
		t.Errorf("%d bytes of %d have come", len(got), len(text))
	}
	m.current = nil // the guest has ended
	m.hush()
	if n, err := m.put([]byte("x")); n != 0 || err == nil {
		t.Errorf("%d bytes were taken for a guest that has ended", n)
	}
	m.heed()
}

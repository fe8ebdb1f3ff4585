package flip

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"qlive/internal/hostram"
	"qlive/internal/proc"
	"qlive/internal/qemu"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// newCPR is the way of a handoff whose source is a process that sleeps.
func newCPR(t *testing.T) (*cprWay, *actor) {
	t.Helper()
	h, journal, _ := newBare(t, nil)
	a, side := play(t, "source", qmp.RunRunning, journal)
	side.Dir = t.TempDir()
	h.cfg.Source = side
	return &cprWay{migrateWay: migrateWay{h: h}}, a
}

// itself is this process, as a source.
func itself(t *testing.T) *qemu.Process {
	t.Helper()
	stat, err := proc.ReadStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	p, err := qemu.Attach(qemu.Identity{PID: os.Getpid(), Start: stat.Start}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Release() }) // nothing is left of it
	return p
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Only the source is let in, for as long as it lives, and its socket has no name any more then.
func TestOnlyTheSourceIsLetIn(t *testing.T) {
	w, source := newCPR(t)
	for _, leftOver := range []bool{false, true} {
		if leftOver {
			if err := os.WriteFile(w.path(mainSocket), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l, err := w.listen(mainSocket)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(w.path(mainSocket))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("the socket is %v, %v", info, err)
		}
		stranger := dial(t, w.path(mainSocket)) // from this process, which is not the source
		process := w.h.cfg.Source.Process
		if leftOver {
			w.h.cfg.Source.Process = itself(t)
			conn, err := w.accept(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			w.h.cfg.Source.Process = process
			l.Close()
			continue
		}
		ended := make(chan error, 1)
		go func() { _, err := w.accept(t.Context(), l); ended <- err }()
		if _, err := stranger.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the stranger is told %v", err)
		}
		source.die()
		if err := <-ended; vmstate.KindOf(err) != vmstate.Conflict || !strings.Contains(err.Error(), "its QEMU was killed") {
			t.Errorf("without the source: %v", err)
		}
		l.Close()
		if _, err := os.Stat(w.path(mainSocket)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there: %v", err)
		}
	}
}

func TestTheSourceDoesNotCome(t *testing.T) {
	w, _ := newCPR(t)
	l, err := w.listen(cprSocket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	late := errors.New("too late")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, late)
	defer cancel()
	if _, err := w.accept(ctx, l); !errors.Is(err, late) {
		t.Errorf("%v", err)
	}
}

// A target that is late gets what is given, and one that never comes does not keep qlive from closing.
func TestGive(t *testing.T) {
	for _, comes := range []bool{true, false} {
		w, _ := newCPR(t)
		source, from := pair(t)
		say(t, source, cprTwo, memoryFiles(t, "pc.bios", "pc.rom")...)
		var err error
		if w.given, err = takeDescriptors(from); err != nil {
			t.Fatal(err)
		}
		w.h.cfg.Offer = t.TempDir() + "/offer"
		w.begin(t.Context(), w.given.state.Bytes())
		if !comes {
			w.close()
			w.close()
			continue
		}
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: w.h.cfg.Offer, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		target, err := l.AcceptUnix()
		l.Close()
		if err != nil {
			t.Fatal(err)
		}
		got, err := takeDescriptors(target)
		target.Close()
		if err != nil || string(got.state.Bytes()) != cprTwo {
			t.Fatalf("%+v, %v", got, err)
		}
		got.close()
		if err := w.taken(t.Context()); err != nil {
			t.Error(err)
		}
		w.close()
	}
}

func TestDifferencesOfMemory(t *testing.T) {
	whole := func(change func(*hostram.Memory)) hostram.Memory {
		m := hostram.Memory{Backing: vmstate.Memfd, Inode: 7, Dev: 1, Whole: true}
		change(&m)
		return m
	}
	same := whole(func(*hostram.Memory) {})
	tests := map[string]struct {
		source, target hostram.Memory
		says           string // empty for no difference
	}{
		"the same":                 {same, same, ""},
		"elsewhere in memory":      {same, whole(func(m *hostram.Memory) { m.HVA = 4096 }), ""},
		"another file":             {same, whole(func(m *hostram.Memory) { m.Inode = 8 }), "inode 7 in the source, 8 in the target"},
		"another file system":      {same, whole(func(m *hostram.Memory) { m.Dev = 2 }), "inode 7"},
		"another place":            {same, whole(func(m *hostram.Memory) { m.Offset = 4096 }), "inode 7"},
		"private source":           {whole(func(m *hostram.Memory) { m.Backing = vmstate.Private }), same, "the source does not map all of it shared"},
		"source's own view":        {whole(func(m *hostram.Memory) { m.Backing = vmstate.PrivateFile }), same, "the source does not"},
		"private target":           {same, whole(func(m *hostram.Memory) { m.Backing = vmstate.Private }), "the target does not map all of it shared"},
		"target maps a part":       {same, whole(func(m *hostram.Memory) { m.Whole = false }), "the target does not"},
		"target has no such block": {same, hostram.Memory{}, "the target does not"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := differences(map[string]hostram.Memory{"pc.bios": test.source}, map[string]hostram.Memory{"pc.bios": test.target})
			if test.says == "" && len(got) > 0 || test.says != "" && (len(got) != 1 || !strings.Contains(got[0], test.says)) {
				t.Errorf("%q", got)
			}
		})
	}
}

// A source whose handoff in mode cpr another daemon has begun is as usual afterwards.
func TestRecoveredSourceIsAsUsual(t *testing.T) {
	journal := &notes{records: []Record{{Phase: vmstate.Prepared}}}
	a, side := play(t, "source", qmp.RunRunning, journal)
	a.mu.Lock()
	a.moves = qmp.MigrationSetup
	a.mu.Unlock()
	if err := takeBackCPR(t.Context(), side.Monitor); err != nil {
		t.Fatal(err)
	}
	if said := a.heard(); !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, "migrate_cancel") }) {
		t.Errorf("the source heard %q", said)
	}
}

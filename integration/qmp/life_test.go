package qmp_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/qmp"
)

// brief is a deadline that is to pass, though not before the command has been sent.
const brief = 500 * time.Millisecond

// streamMagic begins every state that QEMU saves.
const streamMagic = 0x5145564d

func TestRunningAGuest(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		q := start(t, version, guestRAM(t))
		ctx := within(t, patience)
		events := q.Subscribe()
		defer events.Close()
		steps := []struct {
			name  string
			do    func(context.Context) error
			event string
			then  qmp.RunState
		}{
			{"cont", q.Cont, qmp.EventResume, qmp.RunRunning},
			{"system_reset", q.SystemReset, qmp.EventReset, qmp.RunRunning},
			{"system_powerdown", q.SystemPowerdown, qmp.EventPowerdown, qmp.RunRunning},
			{"stop", q.Stop, qmp.EventStop, qmp.RunPaused},
		}
		for _, step := range steps {
			before := time.Now()
			if err := step.do(ctx); err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			e, err := events.Until(ctx, qmp.Named(step.event))
			if err != nil {
				t.Fatalf("%s: %v", step.name, err)
			}
			if e.QEMUTime.Before(before.Add(-time.Millisecond)) || e.QEMUTime.After(time.Now()) || e.Received.Before(before) {
				t.Errorf("%s: sent at %v, %s at %v by QEMU's clock, received at %v", step.name, before, e.Name, e.QEMUTime, e.Received)
			}
			status, err := q.QueryStatus(ctx)
			if err != nil || status.Status != step.then || status.Running != (step.then == qmp.RunRunning) {
				t.Errorf("after %s: %+v, %v", step.name, status, err)
			}
		}
		if err := q.Quit(ctx); err != nil {
			t.Fatal(err)
		}
		if e, err := events.Until(ctx, qmp.Named(qmp.EventShutdown)); err != nil {
			t.Errorf("no SHUTDOWN but %v, %v", e.Name, err)
		}
		wait(t, q.Done(), "the end of the connection")
		wait(t, q.exited, "the end of the process")
		if err := q.Stop(ctx); !errors.Is(err, qmp.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// Stop and save go out in one write, and both are executed in their order. The state goes to a file, and to memory of ours
// that QEMU knows by a descriptor only.
func TestSavingPipelined(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		q := start(t, version, guestRAM(t))
		ctx := within(t, patience)
		fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		memory := os.NewFile(uintptr(fd), "state")
		defer memory.Close()
		// QEMU takes a descriptor of a set only for the very access that it was opened for.
		writable, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer writable.Close()
		added, err := q.AddFd(ctx, 9, "state", int(writable.Fd()))
		if err != nil || added.FdsetID != 9 || added.FD < 3 {
			t.Fatalf("AddFd = %+v, %v", added, err)
		}
		file := filepath.Join(t.TempDir(), "state")
		for _, name := range []string{file, "/dev/fdset/9"} {
			if err := q.Cont(ctx); err != nil {
				t.Fatal(err)
			}
			calls, err := q.StartAll(ctx, qmp.StopCommand(), qmp.XenSaveDevicesStateCommand(name, true), qmp.Command{Name: "query-status"})
			if err != nil {
				t.Fatal(err)
			}
			var status qmp.Status
			if err := errors.Join(calls[0].Wait(ctx, nil), calls[1].Wait(ctx, nil), calls[2].Wait(ctx, &status)); err != nil {
				t.Fatal(err)
			}
			if status.Running {
				t.Errorf("the guest runs after %s: %+v", name, status)
			}
			for i := range calls[1:] {
				if calls[i].Received().After(calls[i+1].Received()) {
					t.Errorf("reply %d came after reply %d", i, i+1)
				}
			}
		}
		saved, err := os.ReadFile(file)
		if err != nil || len(saved) < 1000 || binary.BigEndian.Uint32(saved) != streamMagic {
			t.Errorf("%d bytes, %v: no state", len(saved), err)
		}
		var magic [4]byte
		if _, err := memory.ReadAt(magic[:], 0); err != nil || binary.BigEndian.Uint32(magic[:]) != streamMagic {
			t.Errorf("%x, %v: no state in the descriptor", magic, err)
		}
		if err := q.RemoveFd(ctx, 9); err != nil {
			t.Error(err)
		}
	})
}

// A guest goes from one QEMU into another of the same version, over a pair of sockets that both got through their
// monitors.
func TestMigrationThroughADescriptor(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		ram := guestRAM(t)
		source, target := start(t, version, ram), start(t, version, ram, "-incoming", "defer")
		ctx := within(t, patience)
		for _, q := range []*qemu{source, target} {
			if err := q.MigrateSetCapabilities(ctx, map[string]bool{qmp.CapEvents: true, qmp.CapIgnoreShared: true, qmp.CapReturnPath: true}); err != nil {
				t.Fatal(err)
			}
		}
		far, near := target.Subscribe(qmp.EventMigration, qmp.EventResume), source.Subscribe(qmp.EventMigration)
		defer far.Close()
		defer near.Close()
		give := func(q *qemu, end *os.File) {
			t.Helper()
			if err := q.Getfd(ctx, "channel", int(end.Fd())); err != nil {
				t.Fatal(err)
			}
			if err := end.Close(); err != nil {
				t.Fatal(err)
			}
		}
		a, b := socketPair(t)
		give(target, b)
		give(source, a)

		var exit *bool
		if target.Version().AtLeast(9, 1) {
			exit = new(false)
		}
		if err := errors.Join(source.Cont(ctx), target.MigrateIncoming(ctx, "fd:channel", exit), source.Stop(ctx), source.Migrate(ctx, "fd:channel")); err != nil {
			t.Fatal(err)
		}
		for name, events := range map[string]*qmp.Subscription{"source": near, "target": far} {
			e, err := events.Until(ctx, func(e qmp.Event) bool { return e.MigrationStatus().Ended() })
			if err != nil || e.MigrationStatus() != qmp.MigrationCompleted {
				t.Fatalf("%s: %s, %v", name, e.Data, err)
			}
		}
		m, err := source.QueryMigrate(ctx)
		if err != nil || m.Status != qmp.MigrationCompleted || m.RAM.Remaining != 0 || m.RAM.Transferred == 0 {
			t.Errorf("the source says %+v, %v", m, err)
		}
		if m.RAM.Total == 0 || m.RAM.Total >= ramBytes { // what is shared is not counted
			t.Errorf("%d bytes to transfer of a RAM that is shared", m.RAM.Total)
		}
		if err := target.Cont(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := far.Until(ctx, qmp.Named(qmp.EventResume)); err != nil {
			t.Error(err)
		}
		settles(t, source, qmp.RunPostMigrate) // a moment after its migration has completed
	})
}

// settles waits until QEMU is in a run state that no event tells.
func settles(t *testing.T, q *qemu, want qmp.RunState) {
	t.Helper()
	ctx := within(t, patience)
	for {
		status, err := q.QueryStatus(ctx)
		if err != nil {
			t.Fatalf("waited for %s, last seen %s: %v", want, status.Status, err)
		}
		if status.Status == want {
			return
		}
	}
}

func TestMigrateCancel(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		q := start(t, version, guestRAM(t))
		ctx := within(t, patience)
		if m, err := q.QueryMigrate(ctx); err != nil || m.Status != qmp.MigrationNone || m.ErrorDesc != "" || len(m.BlockedReasons) > 0 {
			t.Errorf("before any migration: %+v, %v", m, err)
		}
		if err := q.MigrateSetCapabilities(ctx, map[string]bool{qmp.CapEvents: true}); err != nil {
			t.Fatal(err)
		}
		events := q.Subscribe(qmp.EventMigration)
		defer events.Close()
		near, _ := socketPair(t) // nobody reads at the other end
		if err := errors.Join(q.Cont(ctx), q.Getfd(ctx, "channel", int(near.Fd())), q.Migrate(ctx, "fd:channel")); err != nil {
			t.Fatal(err)
		}
		if _, err := events.Until(ctx, qmp.MigrationIn(qmp.MigrationActive)); err != nil {
			t.Fatal(err)
		}
		if err := q.MigrateCancel(ctx); err != nil {
			t.Fatal(err)
		}
		if e, err := events.Until(ctx, func(e qmp.Event) bool { return e.MigrationStatus().Ended() }); err != nil ||
			e.MigrationStatus() != qmp.MigrationCancelled {
			t.Errorf("ended with %s, %v", e.Data, err)
		}
	})
}

// A QEMU that stands still is not taken for dead, and one that is dead is known at once.
func TestHungAndKilled(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		q := start(t, version, guestRAM(t))
		if err := q.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := q.Stop(within(t, brief)); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, qmp.ErrClosed) {
				t.Errorf("QEMU stands still: %v", err)
			}
		}
		if err := q.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		ctx := within(t, patience)
		if err := q.Cont(ctx); err != nil {
			t.Fatalf("QEMU goes on: %v", err)
		}
		if late := q.log.of("stop"); len(late) != 2 || late[0].Err != nil || late[0].Received.Sub(late[0].Sent) < brief {
			t.Errorf("late replies: %+v", late)
		}
		if err := q.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		call, err := q.Start(ctx, "query-status", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := q.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := call.Wait(ctx, nil); !errors.Is(err, qmp.ErrClosed) || !strings.Contains(err.Error(), "hung up") {
			t.Errorf("QEMU is dead: %v", err)
		}
	})
}

func TestDialToAQEMUThatFails(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		q := launch(t, version, guestRAM(t), "-device", "no-such-device")
		_, err := qmp.Dial(within(t, patience), q.socket, qmp.Options{Exited: q.exited})
		if !errors.Is(err, qmp.ErrExited) && !errors.Is(err, qmp.ErrClosed) { // its socket may have been there for a moment
			t.Errorf("got %v", err)
		}
	})
}

// A monitor serves one client; the next is told so, and gets its turn when the first leaves.
func TestSecondClient(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		q := start(t, version, guestRAM(t))
		_, err := qmp.Dial(within(t, 200*time.Millisecond), q.socket, qmp.Options{})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "one client at a time") {
			t.Errorf("got %v", err)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		next, err := qmp.Dial(within(t, patience), q.socket, qmp.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		if _, err := next.QueryStatus(within(t, patience)); err != nil {
			t.Error(err)
		}
	})
}

// Descriptors stay neither with us nor, once taken back, with QEMU.
func TestDescriptorsDoNotLeak(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		q := start(t, version, guestRAM(t))
		ctx := within(t, patience)
		near, _ := socketPair(t)
		round := func() {
			if err := errors.Join(q.Getfd(ctx, "channel", int(near.Fd())), q.Closefd(ctx, "channel")); err != nil {
				t.Fatal(err)
			}
			if err := q.Getfd(ctx, "0bad", int(near.Fd())); err == nil {
				t.Fatal("QEMU took a name that begins with a digit")
			}
		}
		round()
		here, there := descriptors(t, os.Getpid()), descriptors(t, q.cmd.Process.Pid)
		for range 50 {
			round()
		}
		if now := descriptors(t, os.Getpid()); now != here {
			t.Errorf("%d descriptors here, %d before", now, here)
		}
		if now := descriptors(t, q.cmd.Process.Pid); now != there {
			t.Errorf("%d descriptors in QEMU, %d before", now, there)
		}
	})
}

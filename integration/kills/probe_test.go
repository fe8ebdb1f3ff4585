package kills_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/kills/stage"
	"qlive/internal/proc"
	"qlive/vmstate"
)

// A QEMU that is only asked what it is ends with the daemon that asks.
func TestProbeDiesWithTheDaemon(t *testing.T) {
	m := newMatrix(t)
	ctx := t.Context()
	if _, err := m.StartDaemon(ctx, ""); err != nil {
		t.Fatal(err)
	}
	asked := make(chan error, 1)
	go func() {
		_, err := m.Client.StartVM(ctx, vmstate.VMSpec{Name: "probed", Binary: m.Env.QEMU(env.Newest), Args: []string{"-machine", "pc-q35-7.2", "-m", "128"}})
		asked <- err
	}()
	var probe proc.Stat
	err := stage.Eventually(ctx, "the daemon asks the QEMU", stage.Limit/6, func() (err error) {
		probe, err = child(m.DaemonPID(), "-machine\x00none")
		return err
	})
	if err != nil {
		t.Fatal(err, <-asked)
	}
	if err := m.StopDaemon(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-asked // it came to nothing
	err = stage.Eventually(ctx, "it has ended", stage.Limit/6, func() error {
		now, err := proc.ReadStat(probe.PID)
		if err != nil || now.Start != probe.Start || now.Ended() {
			return nil
		}
		return fmt.Errorf("process %d lives", probe.PID)
	})
	if err != nil {
		t.Error(err)
	}
}

// child finds a child of a process by a part of its command line.
func child(parent int, part string) (proc.Stat, error) {
	children, err := proc.Children(parent)
	if err != nil {
		return proc.Stat{}, err
	}
	for _, stat := range children {
		if line, err := proc.ReadCmdline(stat.PID); err == nil && bytes.Contains(line, []byte(part)) {
			return stat, nil
		}
	}
	return proc.Stat{}, errors.New("there is none")
}

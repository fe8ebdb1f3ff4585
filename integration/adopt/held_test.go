package adopt_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/foreign"
	"qlive/vmstate"
)

// handedOn: what only one QEMU can have goes with the guest: its tap, on which frames go both ways, the port of VNC, a monitor on a port, a
// forwarded port. It does so when the guest leaves its starter's QEMU, and again after the daemon has been started anew.
func handedOn(t *testing.T, program string) {
	d := lab.NewDaemon(t, lab.DaemonOptions{Program: program, NoTree: true})
	port := func() int { // free now
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // of TCP
	}
	monitor, forward, vnc, link := port(), port(), port(), fmt.Sprintf("qlv%d", os.Getpid()%1000000)
	script, ran := filepath.Join(d.Dir, "down"), filepath.Join(d.Dir, "ran")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho $1 > "+ran+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	mac := net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}
	s := start(t, d.Lab, env.Installed, withNetwork(t, d.Lab, "-machine", "pc-q35-7.2", "-m", "256",
		"-netdev", "tap,id=n0,ifname="+link+",script=no,downscript="+script, "-device", "virtio-net-pci,netdev=n0,romfile=,addr=5,mac="+mac.String(),
		"-netdev", fmt.Sprintf("user,id=u0,hostfwd=tcp:127.0.0.1:%d-:22", forward), "-device", "e1000,netdev=u0,romfile=,addr=6",
		"-vnc", fmt.Sprintf("127.0.0.1:%d", vnc-5900), "-monitor", fmt.Sprintf("telnet:127.0.0.1:%d,server,nowait", monitor))...).up()
	wire := tapUp(t, d.Lab, link, mac)
	look := func(version string) {
		t.Helper()
		wire.answers(d.Lab)
		says(d.Lab, vnc, "RFB ")
		says(d.Lab, monitor, "QEMU "+version+" monitor")
		says(d.Lab, forward, "")
	}
	look(env.Installed)
	if a := s.adopt("vm1").Adoption; len(a.Obstacles) > 0 || a.Mode != vmstate.ModePostcopy {
		t.Fatalf("the report is %+v", a)
	}
	s.awaitTruth(20)
	to := func(version string, mode vmstate.Mode) {
		t.Helper()
		sent, lost := wire.during(func() { s.handOver(vmstate.MigrationSpec{VM: "vm1", Binary: d.Env.QEMU(version), Mode: mode}) })
		t.Logf("to %s: %d of %d pings were not answered", version, lost, sent)
	}
	heldBack(d, s, wire, monitor)
	look(env.Installed)
	to(env.Backport, vmstate.ModePostcopy)
	<-s.ended
	look(env.Backport)
	to(env.Installed, vmstate.ModeAuto)
	d.Restart()
	look(env.Installed)
	// The daemon dies while two QEMUs have all of it.
	d.SetFailpoints("flip.send-ahead.after=kill")
	d.Restart()
	vm, err := d.Client.VM(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1", Binary: d.Env.QEMU(env.Newest)}, ""); err != nil {
		t.Fatal(err)
	}
	_ = d.AwaitEnd()               // by the failpoint
	setHeader(t, vm.PID, link, 10) // as it is if it had died a moment before
	d.SetFailpoints("")
	d.Start()
	look(env.Installed)
	to(env.Newest, vmstate.ModeAuto)
	look(env.Newest)
	s.awaitTruth(20)
	if out, err := d.Qlive("rm", "--force", "vm1"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if text, err := os.ReadFile(ran); err == nil {
		t.Errorf("the script that takes the interface down was run for %s", text)
	}
}

// heldBack: a guest that stands is not handed over, since its QEMU would take the interface down as it quits. While a handoff is held the guest's
// network works, and nobody gets through to a monitor: the QEMU that waits could be told to run the guest there.
func heldBack(d *lab.Daemon, s *stranger, wire *wire, monitor int) {
	t, ctx := s.t, s.t.Context()
	t.Helper()
	if _, err := d.Client.Pause(ctx, "vm1"); err != nil {
		t.Fatal(err)
	}
	spec := vmstate.MigrationSpec{VM: "vm1", Binary: d.Env.QEMU(env.Backport), Mode: vmstate.ModePostcopy}
	if m := s.migrate(spec); m.Phase != vmstate.RolledBack || m.Error == nil || !strings.Contains(m.Error.Detail, "runs a script") {
		t.Errorf("it has %s: %+v", m.Phase, m.Error)
	}
	if _, err := d.Client.Resume(ctx, "vm1"); err != nil {
		t.Fatal(err)
	}
	spec.Hold = true
	m, err := d.Client.Migrate(ctx, spec, "")
	if err != nil {
		t.Fatal(err)
	}
	d.Eventually("the handoff is held", func() error {
		if m, err = d.Client.Migration(ctx, m.ID, 0); err == nil && m.Phase != vmstate.Prepared {
			err = fmt.Errorf("it has %s: %+v", m.Phase, m.Error)
		}
		return err
	})
	wire.answers(d.Lab)
	if c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", monitor), 100*time.Millisecond); err == nil {
		c.Close()
		t.Error("somebody could connect to a monitor that two QEMUs listen on")
	}
	if _, err := d.Client.Cancel(ctx, m.ID); err != nil {
		t.Fatal(err)
	}
	if m, err = d.Client.Migration(ctx, m.ID, lab.Limit); err != nil || m.Phase != vmstate.Aborted {
		t.Errorf("it has %s, %v", m.Phase, err)
	}
}

// setHeader sets the length of the header before each frame of a tap that a process has.
func setHeader(t *testing.T, pid int, link string, n int) {
	t.Helper()
	list, err := foreign.Descriptors(pid, nil)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(d vmstate.HeldDescriptor) bool { return d.Kind == vmstate.HeldTap && d.Name == link })
	if i < 0 {
		t.Fatalf("process %d does not have the tap %s: %+v", pid, link, list)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, list[i].FD, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, n); err != nil {
		t.Fatal(err)
	}
}

// says connects to a port and waits until whoever serves it has said what is wanted; "" for nothing.
func says(l *lab.Lab, port int, want string) {
	l.Eventually(fmt.Sprintf("port %d says %q", port, want), func() error {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), lab.Limit)
		if err != nil {
			return err
		}
		defer c.Close()
		if want == "" {
			return nil
		}
		if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		var said strings.Builder
		for r := bufio.NewReader(c); !strings.Contains(said.String(), want); {
			b, err := r.ReadByte()
			if err != nil {
				return errors.Join(err, fmt.Errorf("it says %q", said.String()))
			}
			said.WriteByte(b)
		}
		return nil
	})
}

package cmdline_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/guest/bootsector"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
)

// TestConsoleSpeaks lets a guest count on its serial port, however the line names the terminal, and finds the numbers where the
// line says that they are.
func TestConsoleSpeaks(t *testing.T) {
	e := locate(t)
	for name, words := range map[string][]string{
		"default":   nil,
		"nographic": {"-nographic"},
		"stdio":     {"-serial", "stdio", "-display", "none"},
		"mon":       {"-serial", "mon:stdio", "-display", "none"},
		"pty":       {"-serial", "pty"},
		"mux":       {"-chardev", "stdio,id=c,mux=on", "-mon", "c", "-serial", "chardev:c", "-nodefaults"},
		"device":    {"-chardev", "stdio,id=c", "-device", "isa-serial,chardev=c", "-nodefaults"},
		"second":    {"-debugcon", "stdio", "-serial", "mon:stdio"},
		"file":      {"-serial", "file:serial.log"},
		"chardev":   {"-chardev", "file,id=c,path=serial.log", "-serial", "chardev:c"},
	} {
		for _, version := range []string{env.Installed, env.Newest} {
			t.Run(version+"/"+name, func(t *testing.T) {
				b := binary(t, e, version)
				dir := tempDir(t, e)
				disk := filepath.Join(dir, "boot.img")
				if err := bootsector.Write(disk); err != nil {
					t.Fatal(err)
				}
				args := append([]string{"-machine", "q35,accel=tcg", "-m", "128"}, bootsector.Args(disk)...)
				count(t, b, append(args, words...), dir)
			})
		}
	}
}

// count runs the line until the guest has counted a few times.
func count(t *testing.T, b *qemu.Binary, args []string, dir string) {
	t.Helper()
	info := probe(t, b)
	facts, err := qemu.Learn(args, dir, info)
	if err != nil {
		t.Fatal(err)
	}
	line, err := cmdline.Rewrite(args, facts, cmdline.Placement{Dir: filepath.Join(dir, "0"), Version: info.Version})
	if err != nil {
		t.Fatal(err)
	}
	if err := qemu.MakePlaces(filepath.Join(dir, "0"), line, nil); err != nil {
		t.Fatal(err)
	}
	p := run(t, b, line.Argv(), makeRAM(t, line.Regions), dir, filepath.Join(dir, "0", "qemu.log"))
	m := dial(t, p, line.Monitor)
	if err := m.Cont(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "serial.log")
	if len(line.Consoles) > 0 {
		log = line.Consoles[0].Log
	}
	const enough = 5
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		report, err := bootsector.Analyze(bytes.NewReader(text))
		if err == nil && report.Lines >= enough {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the guest has said %q (%+v, %v); QEMU says %q", text, report, err, p.Tail(qemu.Words))
		}
	}
}

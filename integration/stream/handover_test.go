package stream_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/vmstate/stream"
)

// channel gives one end of a socket pair to the target, which starts to load from it, and returns
// the other. Nobody else holds either end.
func (q *qemu) channel(t *testing.T) net.Conn {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	q.give("getfd", map[string]any{"fdname": "channel"}, theirs)
	q.do("migrate-incoming", map[string]any{"uri": "fd:channel"}, nil)
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(60 * time.Second))
	return conn
}

// expect reads one message of the return path.
func expect(t *testing.T, back *stream.ReturnPath, want stream.Message) {
	t.Helper()
	if got, err := back.Next(); err != nil || got != want {
		t.Fatalf("return path: got %s %d, %v; want %s %d", got.Type, got.Value, err, want.Type, want.Value)
	}
}

// sendBlocks sends all pages of the blocks that are not shared.
func sendBlocks(t *testing.T, c *stream.Composer, blocks []block, contents map[string][]byte) {
	t.Helper()
	for _, b := range blocks {
		if b.Shared {
			continue
		}
		if err := c.Pages(b.Name, 0, contents[b.Name]); err != nil {
			t.Fatal(err)
		}
	}
}

// sendChanges sends the pages that differ, and counts them.
func sendChanges(t *testing.T, c *stream.Composer, before, now map[string][]byte) (pages int) {
	t.Helper()
	for name, data := range now {
		old := before[name]
		for at := 0; at < len(data); at += stream.PageBytes {
			if page := data[at : at+stream.PageBytes]; !bytes.Equal(page, old[at:at+stream.PageBytes]) {
				pages++
				if err := c.Pages(name, uint64(at), page); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return pages
}

// journey is a guest that goes from one QEMU to another, sitting in its firmware.
type journey struct {
	from, to  string
	args      []string // of both
	prelaunch bool     // the run state is patched; else it arrives paused
	plugged   string   // a device plugged into the running source; the target has it from the start
	private   bool     // nothing is shared: all memory goes through the stream

	// booted waits until the guest has come n times through its firmware in this QEMU, and gives what tells
	// one firmware from another.
	booted func(t *testing.T, q *qemu, n int) string
}

// waiting makes a QEMU the target of a handover.
var waiting = []string{"-incoming", "defer", "-S"}

// standard is a guest with what makes blocks that are not shared: video memory, firmware, two option ROMs.
func standard(machine string, more ...string) []string {
	return slices.Concat([]string{
		"-machine", machine + ",memory-backend=pc.ram", "-m", fmt.Sprint(ramBytes >> 20),
		"-object", fmt.Sprintf("memory-backend-file,id=pc.ram,size=%d,mem-path=/proc/self/fd/3,share=on", ramBytes),
		"-vga", "std",
	}, more)
}

// A guest in its firmware goes from one QEMU to another by a composed stream, and starts anew there.
func TestHandover(t *testing.T) {
	q35 := standard("pc-q35-7.2", "-device", "virtio-net-pci")
	journeys := map[string]journey{
		"7.2.22 to itself":           {from: env.Installed, to: env.Installed, args: q35},
		"7.2.22 to 10.0.2":           {from: env.Installed, to: env.Backport, args: q35, prelaunch: true},
		"7.2.22 to 10.0.13":          {from: env.Installed, to: env.Stable, args: q35},
		"7.2.22 to 11.1.3":           {from: env.Installed, to: env.Newest, args: q35, prelaunch: true},
		"11.1.3 to 7.2.22":           {from: env.Newest, to: env.Installed, args: q35},
		"11.1.3 to 7.2.22 prelaunch": {from: env.Newest, to: env.Installed, args: q35, prelaunch: true},
		"10.0.2 to 11.1.3":           {from: env.Backport, to: env.Newest, args: q35},
		"11.1.3 to 10.0.13":          {from: env.Newest, to: env.Stable, args: q35},
		"10.0.13 to 7.2.22":          {from: env.Stable, to: env.Installed, args: q35},
		"i440fx":                     {from: env.Installed, to: env.Newest, args: standard("pc-i440fx-7.2", "-device", "e1000")},
		"device plugged later": {from: env.Installed, to: env.Newest, args: standard("pc-i440fx-7.2"),
			plugged: "virtio-net-pci,addr=0x5"},
		"two CPUs":                      {from: env.Installed, to: env.Newest, args: slices.Concat(q35, []string{"-smp", "2"})},
		"machine with SWITCHOVER_START": {from: env.Stable, to: env.Newest, args: standard("pc-q35-10.0")},
		"UEFI":                          {from: env.Installed, to: env.Newest, args: uefi(t), booted: shell},
		"private memory": {from: env.Installed, to: env.Newest, private: true,
			args: []string{"-machine", "pc-q35-7.2", "-m", "64", "-vga", "std"}},
		"and back": {from: env.Newest, to: env.Stable, args: standard("pc-q35-10.0")},
	}
	for name, j := range journeys {
		t.Run(name, func(t *testing.T) {
			if j.booted == nil {
				j.booted = seaBIOS
			}
			j.run(t)
		})
	}
}

// uefi is a guest whose firmware and its variables are flash, which the guest writes to.
func uefi(t *testing.T) []string {
	t.Helper()
	found, err := env.Locate()
	if found.OVMFCode == "" || found.OVMFVars == "" {
		t.Fatal(err)
	}
	variables, err := os.ReadFile(found.OVMFVars)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "variables")
	if err := os.WriteFile(path, variables, 0o644); err != nil {
		t.Fatal(err)
	}
	return standard("pc-q35-7.2", "-net", "none",
		"-drive", "if=pflash,format=raw,readonly=on,file="+found.OVMFCode, "-drive", "if=pflash,format=raw,file="+path,
		"-chardev", "file,id=serial,path=serial", "-serial", "chardev:serial")
}

// shell waits until UEFI has found nothing to boot, and runs its shell.
func shell(t *testing.T, q *qemu, n int) string {
	t.Helper()
	q.says(t, filepath.Join(q.dir, "serial"), "any other key to continue", n)
	return "UEFI"
}

func (j journey) run(t *testing.T) {
	memory := ram(t, ramBytes)
	source := start(t, j.from, memory, j.args...)
	firmware := j.booted(t, source, 1)
	if j.plugged != "" {
		driver, address, _ := strings.Cut(j.plugged, ",addr=")
		source.do("device_add", map[string]any{"driver": driver, "addr": address, "id": "plugged"}, nil)
		j.args = slices.Concat(j.args, []string{"-device", j.plugged})
	}
	target := start(t, j.to, memory, slices.Concat(j.args, waiting)...)
	j.handOver(t, source, target)

	target.do("cont", nil, nil)
	if got := target.status(); got != "running" {
		t.Fatalf("target is %s after cont", got)
	}
	target.do("system_reset", nil, nil)
	if got := j.booted(t, target, 1); got != firmware {
		t.Errorf("after a reset the guest runs firmware %s, it had %s", got, firmware)
	}
	if text := target.errors(); strings.Contains(text, "vmdescription") {
		t.Errorf("target wrote: %s", text)
	}
}

// handOver moves a running guest, checks what has arrived, and ends the source.
func (j journey) handOver(t *testing.T, source, target *qemu) {
	t.Helper()
	var shared []string
	if !j.private {
		shared = []string{"pc.ram"}
		target.enable("x-ignore-shared")
	}
	finish, arrives := stream.Finish{Ping: 2}, "paused"
	if j.prelaunch {
		finish.RunState, arrives = "prelaunch", "prelaunch"
	}
	blocks := source.ramBlocks(t, shared...)
	conn := target.channel(t)
	back := stream.NewReturnPath(conn)
	c := begin(t, conn, stream.Config{Machine: source.machine(), IgnoreShared: !j.private}, blocks)
	before := source.contents(t, blocks)
	sendBlocks(t, c, blocks, before)
	if err := c.Ping(1); err != nil {
		t.Fatal(err)
	}
	expect(t, back, stream.Message{Type: stream.MessagePong, Value: 1})
	if s, d := source.status(), target.status(); s != "running" || d != "inmigrate" {
		t.Fatalf("after the first PONG the source is %s and the target %s; want running and inmigrate", s, d)
	}

	source.do("stop", nil, nil)
	source.draw(t, blocks)
	now := source.contents(t, blocks)
	if changed := sendChanges(t, c, before, now); changed == 0 {
		t.Fatal("no page has changed, although one was written to")
	}
	if err := c.Finish(source.deviceState(t), finish); err != nil {
		t.Fatal(err)
	}
	expect(t, back, stream.Message{Type: stream.MessagePong, Value: 2})
	expect(t, back, stream.Message{Type: stream.MessageShut, Value: 0})
	if _, err := back.Next(); err != io.EOF {
		t.Fatalf("return path goes on after SHUT: %v", err)
	}
	if got := target.status(); got != arrives {
		t.Fatalf("target is %s, want %s", got, arrives)
	}
	compare(t, now, target.contents(t, target.ramBlocks(t, shared...)))
	source.kill()
}

// begin starts a stream.
func begin(t *testing.T, w io.Writer, config stream.Config, blocks []block) *stream.Composer {
	t.Helper()
	c, err := stream.NewComposer(w, config)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Begin(table(blocks)); err != nil {
		t.Fatal(err)
	}
	return c
}

// draw writes a line into video memory, as a guest would that has gone on in the meantime.
func (q *qemu) draw(t *testing.T, blocks []block) {
	t.Helper()
	for _, b := range blocks {
		if !strings.HasSuffix(b.Name, "vga.vram") {
			continue
		}
		f := q.open(t)
		defer f.Close()
		if _, err := f.WriteAt(bytes.Repeat([]byte{0x5a}, 3000), int64(b.host+b.Used/2)); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("no video memory")
}

// compare fails for each block that has not arrived as it was.
func compare(t *testing.T, want, got map[string][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("target has %d blocks that are not shared, source %d", len(got), len(want))
	}
	for name, data := range want {
		if !bytes.Equal(got[name], data) {
			t.Errorf("RAM block %s: %d bytes in the target differ from the %d of the source", name, len(got[name]), len(data))
		}
	}
}

// seaBIOS waits until SeaBIOS boots for the nth time, and gives its version.
func seaBIOS(t *testing.T, q *qemu, n int) string {
	t.Helper()
	said := q.says(t, q.firmwareLog(), "Booting from Hard Disk", n)
	_, rest, _ := strings.Cut(said, "SeaBIOS (version ")
	version, _, ok := strings.Cut(rest, ")")
	if !ok {
		t.Fatalf("firmware does not say its version: %q", said[:min(len(said), 200)])
	}
	return version
}

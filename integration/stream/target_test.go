package stream_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/internal/qmp"
	"qlive/vmstate/stream"
)

// ends are the oldest and the newest QEMU.
func ends() []string { return []string{env.Installed, env.Newest} }

// attempt is what is sent to a target.
type attempt struct {
	config stream.Config
	blocks []block
}

func (a *attempt) find(name string) *block {
	return &a.blocks[slices.IndexFunc(a.blocks, func(b block) bool { return b.Name == name })]
}

// What does not fit is refused by the target as soon as it gets it, while the guest still runs: no PONG comes.
func TestRefusedBeforeTheStop(t *testing.T) {
	cases := []struct {
		name  string
		spoil func(a *attempt)
		says  string // on stderr
		early bool   // before the return path is open
	}{
		{"another machine", func(a *attempt) { a.config.Machine = "pc-q35-6.2" },
			"Machine type received is 'pc-q35-6.2'", true},
		{"without the capability", func(a *attempt) { a.config.IgnoreShared, a.find("pc.ram").Shared = false, false },
			"Capability x-ignore-shared is on, but received capability is off", true},
		{"a block too many", func(a *attempt) {
			a.blocks = append(a.blocks, block{Block: stream.Block{Name: "pc.more", Used: stream.PageBytes}})
		}, `Unknown ramblock "pc.more"`, false},
		{"firmware of another size", func(a *attempt) { a.find("pc.bios").Used *= 2 }, "Size mismatch: pc.bios", false},
		{"memory of another size", func(a *attempt) { a.find("pc.ram").Used *= 2 }, "Size mismatch: pc.ram", false},
		{"memory at another address", func(a *attempt) { a.find("pc.ram").Addr = 4096 }, "Mismatched GPAs for block pc.ram", false},
		{"pages of shared memory", func(a *attempt) { a.find("pc.ram").Shared = false }, "block pc.ram should not be migrated", false},
	}
	for _, version := range ends() {
		for _, c := range cases {
			t.Run(version+" "+c.name, func(t *testing.T) {
				target := start(t, version, ram(t, ramBytes), slices.Concat(standard("pc-q35-7.2"), waiting)...)
				target.enable("x-ignore-shared")
				a := attempt{stream.Config{Machine: "pc-q35-7.2", IgnoreShared: true}, target.ramBlocks(t, "pc.ram")}
				c.spoil(&a)
				conn := target.channel(t)
				back := stream.NewReturnPath(conn)
				composer := begin(t, conn, a.config, a.blocks)
				for _, b := range a.blocks {
					if !b.Shared && composer.Pages(b.Name, 0, make([]byte, stream.PageBytes)) != nil {
						break // the target has closed the channel already
					}
				}
				composer.Ping(1) // may find the channel closed, too
				refused(t, target, back, c.says, c.early)
			})
		}
	}
}

// refused waits until the target has given up, with these words and without a PONG.
func refused(t *testing.T, target *qemu, back *stream.ReturnPath, says string, early bool) {
	t.Helper()
	var answers []string
	for {
		m, err := back.Next()
		if err != nil {
			answers = append(answers, err.Error())
			break
		}
		answers = append(answers, fmt.Sprintf("%s %d", m.Type, m.Value))
	}
	// A SHUT 1 comes from later versions only, and not if the configuration was at fault.
	want := "EOF"
	if target.version != env.Installed && !early {
		want = "SHUT 1, EOF"
	}
	if got := strings.Join(answers, ", "); got != want && !strings.HasPrefix(got, strings.TrimSuffix(want, "EOF")+"cannot read") {
		t.Errorf("return path says %s; want %s", got, want)
	}
	select {
	case <-target.exited:
	case <-time.After(30 * time.Second):
		t.Fatal("the target is still there")
	}
	if text := target.errors(); !strings.Contains(text, says) {
		t.Errorf("target wrote %q; want %q in it", text, says)
	}
	if status := target.cmd.ProcessState.ExitCode(); status != 1 {
		t.Errorf("target has exit code %d; want 1", status)
	}
}

// A device that the target lacks shows only when its state arrives, after the guest has stopped.
func TestRefusedAfterTheStop(t *testing.T) {
	for _, version := range ends() {
		t.Run(version, func(t *testing.T) {
			memory := ram(t, ramBytes)
			args := standard("pc-q35-7.2")
			source := start(t, version, memory, slices.Concat(args, []string{"-device", "virtio-rng-pci"})...)
			target := start(t, version, memory, slices.Concat(args, waiting)...)
			target.enable("x-ignore-shared")
			blocks := source.ramBlocks(t, "pc.ram")
			conn := target.channel(t)
			back := stream.NewReturnPath(conn)
			c := begin(t, conn, stream.Config{Machine: "pc-q35-7.2", IgnoreShared: true}, blocks)
			sendBlocks(t, c, blocks, source.contents(t, blocks))
			if err := c.Ping(1); err != nil {
				t.Fatal(err)
			}
			expect(t, back, stream.Message{Type: stream.MessagePong, Value: 1})
			source.do("stop", nil, nil)
			if err := c.Finish(source.deviceState(t), stream.Finish{}); err != nil {
				t.Fatal(err)
			}
			refused(t, target, back, "section or instance '0000:00:02.0/virtio-rng' 0", false)
			source.do("cont", nil, nil)
			if got := source.status(); got != "running" {
				t.Errorf("source is %s after cont", got)
			}
		})
	}
}

// A block that grows after the table was sent is resized in the target, and shrinks again.
func TestResize(t *testing.T) {
	const tables = "/rom@etc/acpi/tables"
	for _, version := range env.Versions() {
		t.Run(version, func(t *testing.T) {
			target := start(t, version, ram(t, ramBytes), slices.Concat(standard("pc-q35-7.2"), waiting)...)
			target.enable("x-ignore-shared")
			a := attempt{stream.Config{Machine: "pc-q35-7.2", IgnoreShared: true}, target.ramBlocks(t, "pc.ram")}
			was := a.find(tables).Used
			conn := target.channel(t)
			back := stream.NewReturnPath(conn)
			c := begin(t, conn, a.config, a.blocks)
			for i, used := range []uint64{2 * was, was / 2, was} {
				page := make([]byte, stream.PageBytes)
				page[0] = byte(i + 1)
				if err := errors.Join(c.Resize(tables, used), c.Pages(tables, used-stream.PageBytes, page), c.Ping(uint32(i+1))); err != nil {
					t.Fatal(err)
				}
				expect(t, back, stream.Message{Type: stream.MessagePong, Value: uint32(i + 1)})
				a.blocks = target.ramBlocks(t, "pc.ram")
				b := a.find(tables)
				if b.Used != used {
					t.Fatalf("block has %d bytes, want %d", b.Used, used)
				}
				if got := target.memory(t, b.host+used-stream.PageBytes, 1)[0]; got != page[0] {
					t.Errorf("last page starts with %d, want %d", got, page[0])
				}
			}
		})
	}
}

// Loading leaves the shared memory alone, to the last byte: until the guest is told to go on in the target, it can
// go on in the source. (Under KVM, the guest's clock page does change.)
func TestSharedMemoryUntouched(t *testing.T) {
	for _, version := range env.Versions() {
		t.Run(version, func(t *testing.T) {
			memory := ram(t, ramBytes)
			args := standard("pc-q35-7.2", "-device", "virtio-net-pci", "-device", "virtio-rng-pci")
			source := start(t, env.Installed, memory, args...)
			seaBIOS(t, source, 1)
			source.do("stop", nil, nil)
			want := digest(t, memory)
			target := start(t, version, memory, slices.Concat(args, waiting)...)
			target.enable("x-ignore-shared")
			blocks := source.ramBlocks(t, "pc.ram")
			conn := target.channel(t)
			back := stream.NewReturnPath(conn)
			c := begin(t, conn, stream.Config{Machine: "pc-q35-7.2", IgnoreShared: true}, blocks)
			sendBlocks(t, c, blocks, source.contents(t, blocks))
			if err := c.Ping(1); err != nil {
				t.Fatal(err)
			}
			expect(t, back, stream.Message{Type: stream.MessagePong, Value: 1})
			if digest(t, memory) != want {
				t.Error("memory has changed before the device state was sent")
			}
			if err := c.Finish(source.deviceState(t), stream.Finish{}); err != nil {
				t.Fatal(err)
			}
			expect(t, back, stream.Message{Type: stream.MessageShut})
			if digest(t, memory) != want {
				t.Error("memory has changed by loading the device state")
			}
			target.kill()
			source.do("cont", nil, nil)
			source.do("system_reset", nil, nil)
			seaBIOS(t, source, 2)
		})
	}
}

// With live=true QEMU lets go of the images of a guest that stands, until the next cont. Before 10.0 it aborts
// if asked to do so again: such a guest is lost, which is why the test names it.
func TestSavedTwice(t *testing.T) {
	save := func(q *qemu, live bool) error {
		return q.XenSaveDevicesState(t.Context(), filepath.Join(q.dir, "devices"), live)
	}
	for _, version := range env.Versions() {
		t.Run(version, func(t *testing.T) {
			disk := ram(t, 1<<20)
			q := start(t, version, disk, "-machine", "pc-q35-7.2", "-m", "64", "-device", "virtio-blk-pci,drive=disk",
				"-blockdev", "raw,node-name=disk,file.driver=file,file.filename=/proc/self/fd/3")
			for range 2 {
				if err := errors.Join(q.Stop(t.Context()), save(q, false), save(q, false), save(q, true), q.Cont(t.Context())); err != nil {
					t.Fatal(err)
				}
			}
			err := errors.Join(q.Stop(t.Context()), save(q, true), save(q, true))
			if aborts := version == env.Installed; aborts != errors.Is(err, qmp.ErrClosed) || !aborts && err != nil {
				t.Errorf("saved twice with live=true: %v", err)
			}
		})
	}
}

func digest(t *testing.T, memory *os.File) [sha256.Size]byte {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(memory, 0, ramBytes)); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// The device state may be written to memory instead of a file: an fd set holds it, open for writing only. QEMU empties it
// each time but writes where the last one ended, unless that is wound back.
func TestDeviceStateInMemory(t *testing.T) {
	for _, version := range env.Versions() {
		t.Run(version, func(t *testing.T) {
			q := start(t, version, ram(t, ramBytes), standard("pc-q35-7.2")...)
			q.do("stop", nil, nil)
			fd, err := unix.MemfdCreate("devices", unix.MFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			state := os.NewFile(uintptr(fd), "devices")
			defer state.Close()
			writer, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer writer.Close()
			q.give("add-fd", map[string]any{"fdset-id": 7}, writer)
			for range 2 {
				if _, err := writer.Seek(0, io.SeekStart); err != nil {
					t.Fatal(err)
				}
				q.do("xen-save-devices-state", map[string]any{"filename": "/dev/fdset/7", "live": true}, nil)
				raw, err := io.ReadAll(io.NewSectionReader(state, 0, 1<<30))
				if err != nil {
					t.Fatal(err)
				}
				devices, err := stream.Devices(raw)
				if err != nil {
					t.Fatal(err)
				}
				if last := devices[len(devices)-1]; last.Name != "globalstate" {
					t.Errorf("last device is %s", last)
				}
			}
		})
	}
}

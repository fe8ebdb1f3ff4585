package stream_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
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
	q.do("getfd", map[string]any{"fdname": "channel"}, nil, theirs)
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

// A guest in its firmware goes from one QEMU to another by a composed stream, and starts anew there.
func TestHandover(t *testing.T) {
	pairs := [][2]string{
		{env.Installed, env.Installed}, {env.Installed, env.Backport}, {env.Installed, env.Stable},
		{env.Installed, env.Newest}, {env.Newest, env.Installed}, {env.Backport, env.Newest},
		{env.Newest, env.Stable}, {env.Newest, env.Newest},
	}
	for i, pair := range pairs {
		runState, arrives := "", "paused"
		if i%2 == 1 {
			runState, arrives = "prelaunch", "prelaunch"
		}
		t.Run(fmt.Sprintf("%s to %s arriving %s", pair[0], pair[1], arrives), func(t *testing.T) {
			handOver(t, pair[0], pair[1], runState, arrives)
		})
	}
}

func handOver(t *testing.T, from, to, runState, arrives string) {
	memory := ram(t, ramBytes)
	source := start(t, from, memory)
	firmware := version(t, source.booted(t, 1))
	target := start(t, to, memory, "-incoming", "defer", "-S")
	target.enable("x-ignore-shared")

	blocks := source.ramBlocks(t, "pc.ram")
	conn := target.channel(t)
	back := stream.NewReturnPath(conn)
	c, err := stream.NewComposer(conn, stream.Config{Machine: machine, IgnoreShared: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Begin(table(blocks)); err != nil {
		t.Fatal(err)
	}
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
	if err := c.Finish(source.deviceState(t), stream.Finish{RunState: runState, Ping: 2}); err != nil {
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
	compare(t, now, target.contents(t, target.ramBlocks(t, "pc.ram")))
	source.kill()

	target.do("cont", nil, nil)
	if got := target.status(); got != "running" {
		t.Fatalf("target is %s after cont", got)
	}
	target.do("system_reset", nil, nil)
	if got := version(t, target.booted(t, 1)); got != firmware {
		t.Errorf("after a reset the guest runs firmware %s, it had %s", got, firmware)
	}
	if text := target.errors(); strings.Contains(text, "vmdescription") {
		t.Errorf("target wrote: %s", text)
	}
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

// version is what SeaBIOS says of itself first.
func version(t *testing.T, said string) string {
	t.Helper()
	_, rest, _ := strings.Cut(said, "SeaBIOS (version ")
	name, _, ok := strings.Cut(rest, ")")
	if !ok {
		t.Fatalf("firmware does not say its version: %q", said[:min(len(said), 200)])
	}
	return name
}

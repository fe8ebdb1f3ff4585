package stream_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qlive/vmstate/stream"
)

var errFull = errors.New("full")

// writes keeps each write apart, and fails from the nth on if n > 0.
type writes struct {
	list [][]byte
	n    int
}

func (w *writes) Write(b []byte) (int, error) {
	if w.n > 0 && len(w.list)+1 >= w.n {
		return 0, errFull
	}
	w.list = append(w.list, bytes.Clone(b))
	return len(b), nil
}

func composer(t testing.TB, w io.Writer) *stream.Composer {
	t.Helper()
	c, err := stream.NewComposer(w, stream.Config{Machine: "pc-q35-7.2", IgnoreShared: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func blocks() []stream.Block {
	return []stream.Block{
		{Name: "pc.ram", Used: 64 << 20, Shared: true, Addr: 0x1000},
		{Name: "pc.bios", Used: 3 * stream.PageBytes, Addr: 0xfffc0000},
		{Name: "vram", Used: 2 * stream.PageBytes},
	}
}

// page has all bytes alike.
func page(fill byte) []byte { return bytes.Repeat([]byte{fill}, stream.PageBytes) }

// The whole stream, byte for byte.
func TestComposedBytes(t *testing.T) {
	var w writes
	c := composer(t, &w)
	err := errors.Join(c.Begin(blocks()),
		c.Pages("pc.bios", 0, append(page(0), page(7)...)), c.Pages("vram", stream.PageBytes, page(0)), c.Ping(9),
		c.Pages("vram", 0, page(0)), c.Resize("vram", stream.PageBytes),
		c.Finish(devices(), stream.Finish{RunState: "prelaunch", Ping: 10}))
	if err != nil {
		t.Fatal(err)
	}
	const id = 0x7fff0001
	first := header().u8(7).u32(10).raw([]byte("pc-q35-7.2")).
		u8(5).text("configuration/capabilities").u32(1).u32(1).text("x-ignore-shared").
		u8(8).u16(1).u16(0).
		open(stream.KindStart, id, "ram", 4).u64(64<<20 + 5*4096 + 4).
		text("pc.ram").u64(64 << 20).u64(0x1000).text("pc.bios").u64(3 * 4096).u64(0xfffc0000).text("vram").u64(2 * 4096).u64(0).
		u64(0x10).footer(id).
		u8(2).u32(id).u64(0x02).text("pc.bios").u8(0).u64(0x1028).raw(page(7)).u64(0x1002).text("vram").u8(0).u64(0x10).footer(id).
		u8(8).u16(2).u16(4).u32(9).b
	second := new(builder).u8(2).u32(id).u64(0x02).text("vram").u8(0).u64(0x1004).text("vram").u64(0x1000).u64(0).u64(0x10).footer(id).
		u8(3).u32(id).u64(0x10).footer(id).
		full(0, "timer", make([]byte, 24)).full(41, "globalstate", globalState("prelaunch")).
		u8(8).u16(2).u16(4).u32(10).u8(0).u8(6).u32(2).raw([]byte("{}")).b
	if len(w.list) != 2 {
		t.Fatalf("%d writes, want 2", len(w.list))
	}
	for i, want := range [][]byte{first, second} {
		if diff := cmp.Diff(hex.Dump(want), hex.Dump(w.list[i])); diff != "" {
			t.Errorf("write %d: %s", i, diff)
		}
	}
}

// What has been composed is read as it was meant.
func TestComposeThenParse(t *testing.T) {
	state := captured(t, "7.2.22.devices")
	want, err := stream.Devices(state)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		shared := rapid.Bool().Draw(t, "shared")
		m := model{shared: shared, pages: map[string]map[uint64]byte{}}
		c, err := stream.NewComposer(&m.out, stream.Config{Machine: rapid.StringMatching(`[a-z0-9.-]{1,40}`).Draw(t, "machine"), IgnoreShared: shared})
		if err != nil {
			t.Fatal(err)
		}
		m.c = c
		m.begin(t)
		t.Repeat(map[string]func(*rapid.T){
			"pages": m.send, "resize": m.resize, "ping": m.ping, "": func(*rapid.T) {},
		})
		how := stream.Finish{RunState: rapid.SampledFrom(append(stream.RunStates(), "")).Draw(t, "state"),
			Ping: rapid.Uint32().Draw(t, "ping"), NoDescription: rapid.Bool().Draw(t, "bare")}
		if err := m.c.Finish(state, how); err != nil {
			t.Fatal(err)
		}
		m.check(t, how, len(want))
	})
}

// model knows what a stream should hold.
type model struct {
	out    bytes.Buffer
	c      *stream.Composer
	shared bool
	blocks []stream.Block
	pages  map[string]map[uint64]byte // fill of each page that was sent
	pings  int
}

func (m *model) begin(t *rapid.T) {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[ -~]{1,60}`), 1, 6, rapid.ID).Draw(t, "names")
	for _, name := range names {
		b := stream.Block{Name: name, Used: stream.PageBytes * rapid.Uint64Range(1, 20).Draw(t, "pages")}
		if m.shared {
			b.Addr, b.Shared = rapid.Uint64().Draw(t, "addr"), rapid.Bool().Draw(t, "left out")
		}
		m.blocks = append(m.blocks, b)
		m.pages[name] = map[uint64]byte{}
	}
	if err := m.c.Begin(m.blocks); err != nil {
		t.Fatal(err)
	}
}

func (m *model) send(t *rapid.T) {
	b := rapid.SampledFrom(m.blocks).Draw(t, "block")
	if b.Shared {
		t.Skip("its pages are not sent")
	}
	first := rapid.Uint64Range(0, b.Used/stream.PageBytes-1).Draw(t, "first")
	n := rapid.Uint64Range(0, b.Used/stream.PageBytes-first).Draw(t, "n")
	var data []byte
	for i := range n {
		fill := byte(rapid.IntRange(0, 3).Draw(t, "fill"))
		data = append(data, page(fill)...)
		m.pages[b.Name][first+i] = fill
	}
	if err := m.c.Pages(b.Name, first*stream.PageBytes, data); err != nil {
		t.Fatal(err)
	}
}

// resize only lets a block grow, so that all pages sent stay inside.
func (m *model) resize(t *rapid.T) {
	i := rapid.IntRange(0, len(m.blocks)-1).Draw(t, "block")
	m.blocks[i].Used += stream.PageBytes * rapid.Uint64Range(0, 3).Draw(t, "more")
	if err := m.c.Resize(m.blocks[i].Name, m.blocks[i].Used); err != nil {
		t.Fatal(err)
	}
}

func (m *model) ping(t *rapid.T) {
	m.pings++
	if err := m.c.Ping(uint32(m.pings)); err != nil {
		t.Fatal(err)
	}
}

func (m *model) check(t *rapid.T, how stream.Finish, devices int) {
	s, err := stream.Parse(m.out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Blocks) != len(m.blocks) {
		t.Fatalf("%d blocks, want %d", len(s.Blocks), len(m.blocks))
	}
	got := map[string]map[uint64]byte{}
	for i, b := range s.Blocks {
		want := m.blocks[i]
		want.Shared = false
		if b.Block != want {
			t.Errorf("block %+v, want %+v", b.Block, want)
		}
		got[b.Name] = map[uint64]byte{}
	}
	for p := range s.Pages() {
		fill := byte(0)
		if p.Data != nil {
			fill = p.Data[0]
			if !bytes.Equal(p.Data, page(fill)) || fill == 0 {
				t.Errorf("page at %d of %q is not as it was sent", p.Offset, p.Block)
			}
		}
		got[p.Block][p.Offset/stream.PageBytes] = fill
	}
	if diff := cmp.Diff(m.pages, got); diff != "" {
		t.Error(diff)
	}
	pings := m.pings
	if how.Ping != 0 {
		pings++
	}
	counted := map[stream.Command]int{}
	for _, section := range s.Sections {
		counted[section.Command]++
	}
	if counted[stream.CommandPing] != pings || counted[stream.CommandOpenReturnPath] != 1 {
		t.Errorf("commands %v, want %d pings", counted, pings)
	}
	if len(s.Devices()) != devices {
		t.Errorf("%d devices, want %d", len(s.Devices()), devices)
	}
	want := how.RunState
	if want == "" {
		want = "running"
	}
	if state, ok := s.RunState(); state != want || !ok {
		t.Errorf("run state %q, want %q", state, want)
	}
	if (s.Description == nil) != how.NoDescription {
		t.Errorf("description %q", s.Description)
	}
}

// Only the name changes in the run state's section, not whether the guest had been suspended.
func TestRunStateKeepsTheRest(t *testing.T) {
	var out bytes.Buffer
	c := composer(t, &out)
	if err := errors.Join(c.Begin(blocks()), c.Finish(devices(), stream.Finish{RunState: "paused"})); err != nil {
		t.Fatal(err)
	}
	s := mustParse(t, out.Bytes())
	devices := s.Devices()
	if got := s.Payload(devices[len(devices)-1]); !bytes.Equal(got, globalState("paused")) {
		t.Errorf("payload is %x", got)
	}
}

func TestComposerErrors(t *testing.T) {
	begun := func(c *stream.Composer) error { return c.Begin(blocks()) }
	cases := []struct {
		name string
		do   func(c *stream.Composer) error
		want string
	}{
		{"no blocks", func(c *stream.Composer) error { return c.Begin(nil) }, "without RAM blocks"},
		{"a block twice", func(c *stream.Composer) error { return c.Begin(append(blocks(), blocks()[1])) }, `"pc.bios" twice`},
		{"a block without a name", func(c *stream.Composer) error { return c.Begin([]stream.Block{{Used: 4096}}) }, `named ""`},
		{"a name that is too long", func(c *stream.Composer) error {
			return c.Begin([]stream.Block{{Name: strings.Repeat("x", 256), Used: 4096}})
		}, "1 to 255"},
		{"an empty block", func(c *stream.Composer) error { return c.Begin([]stream.Block{{Name: "a"}}) }, "of 0 bytes"},
		{"a crooked block", func(c *stream.Composer) error { return c.Begin([]stream.Block{{Name: "a", Used: 4095}}) }, "not a multiple"},
		{"more than there can be", func(c *stream.Composer) error {
			return c.Begin([]stream.Block{{Name: "a", Used: 1 << 63}, {Name: "b", Used: 1 << 63}})
		}, "more than 2^64"},
		{"pages before the begin", func(c *stream.Composer) error { return c.Pages("pc.bios", 0, page(1)) }, "before it has begun"},
		{"twice begun", func(c *stream.Composer) error { return errors.Join(begun(c), begun(c)) }, "twice"},
		{"unknown block", func(c *stream.Composer) error { return errors.Join(begun(c), c.Pages("x", 0, page(1))) }, `"x": it is not in the table`},
		{"shared block", func(c *stream.Composer) error { return errors.Join(begun(c), c.Pages("pc.ram", 0, page(1))) }, "it is shared"},
		{"crooked offset", func(c *stream.Composer) error { return errors.Join(begun(c), c.Pages("vram", 1, page(1))) }, "not whole pages"},
		{"crooked length", func(c *stream.Composer) error { return errors.Join(begun(c), c.Pages("vram", 0, page(1)[1:])) }, "not whole pages"},
		{"behind the block", func(c *stream.Composer) error { return errors.Join(begun(c), c.Pages("vram", 2*4096, page(1))) }, "it has 8192"},
		{"far behind the block", func(c *stream.Composer) error { return errors.Join(begun(c), c.Pages("vram", 1<<63, page(1))) }, "it has 8192"},
		{"resize of the unknown", func(c *stream.Composer) error { return errors.Join(begun(c), c.Resize("x", 4096)) }, "not in the table"},
		{"resize to nothing", func(c *stream.Composer) error { return errors.Join(begun(c), c.Resize("vram", 0)) }, "of 0 bytes"},
		{"resized, then behind", func(c *stream.Composer) error {
			return errors.Join(begun(c), c.Resize("vram", 4096), c.Pages("vram", 4096, page(1)))
		}, "it has 4096"},
		{"broken state", func(c *stream.Composer) error {
			return errors.Join(begun(c), c.Finish(devices()[:60], stream.Finish{}))
		}, "cannot read migration stream"},
		{"whole stream", func(c *stream.Composer) error {
			return errors.Join(begun(c), c.Finish(header().full(1, "x", nil).described("{}"), stream.Finish{}))
		}, "give what xen-save-devices-state wrote"},
		{"state with RAM", func(c *stream.Composer) error {
			return errors.Join(begun(c), c.Finish(header().ram().u64(0x10).footer(1).eof(), stream.Finish{}))
		}, "only devices' state is expected"},
		{"state with our id", func(c *stream.Composer) error {
			return errors.Join(begun(c), c.Finish(header().full(stream.RAMSectionID, "x", nil).eof(), stream.Finish{}))
		}, "only devices' state is expected"},
		{"unknown run state", func(c *stream.Composer) error {
			return errors.Join(begun(c), c.Finish(devices(), stream.Finish{RunState: "inmigrate"}))
		}, `as "inmigrate": a loading QEMU takes running,`},
		{"no run state to replace", func(c *stream.Composer) error {
			return errors.Join(begun(c), c.Finish(header().full(1, "x", nil).eof(), stream.Finish{RunState: "paused"}))
		}, `no section "globalstate"`},
		{"run state of another size", func(c *stream.Composer) error {
			return errors.Join(begun(c), c.Finish(header().full(1, "globalstate", nil).eof(), stream.Finish{RunState: "paused"}))
		}, "has 0 bytes"},
		{"ambiguous state, run state to replace", func(c *stream.Composer) error {
			return errors.Join(begun(c), c.Finish(ambiguous().eof(), stream.Finish{RunState: "paused"}))
		}, "two ways"},
		{"after the end", func(c *stream.Composer) error {
			return errors.Join(begun(c), c.Finish(devices(), stream.Finish{}), c.Ping(1))
		}, "finished"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			composer := composer(t, io.Discard)
			err := c.do(composer)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q in it", err, c.want)
			}
			if again := composer.Flush(); again == nil {
				t.Error("the error does not stay")
			}
		})
	}
}

func TestConfigErrors(t *testing.T) {
	for name, config := range map[string]stream.Config{
		"no machine":     {},
		"odd machine":    {Machine: "pc\n"},
		"odd page size":  {Machine: "virt", PageBits: 16},
		"negative pages": {Machine: "virt", PageBits: -1},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := stream.NewComposer(io.Discard, config); err == nil {
				t.Error("no error")
			}
		})
	}
}

// A state that can be read in two ways is sent as it is.
func TestAmbiguousStateIsSent(t *testing.T) {
	state := ambiguous().eof()
	for _, runState := range []string{"", "running"} {
		var out bytes.Buffer
		c := composer(t, &out)
		if err := errors.Join(c.Begin(blocks()), c.Finish(state, stream.Finish{RunState: runState})); err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(out.Bytes(), state[8:]) {
			t.Error("the state is not in the stream")
		}
	}
}

// Long blocks are written piece by piece; an error of the writer stays.
func TestWriterFails(t *testing.T) {
	big := []stream.Block{{Name: "vram", Used: 16 << 20}}
	data := bytes.Repeat([]byte{1}, 16<<20)
	for _, n := range []int{1, 2, 5} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := writes{n: n}
			c := composer(t, &w)
			err := errors.Join(c.Begin(big), c.Pages("vram", 0, data))
			if !errors.Is(err, errFull) || len(w.list) != n-1 {
				t.Fatalf("got %v after %d writes", err, len(w.list))
			}
			if again := c.Finish(devices(), stream.Finish{}); !errors.Is(again, errFull) {
				t.Errorf("then got %v", again)
			}
		})
	}
}

// BenchmarkFinish is what qlive adds to the pause: the changed pages and the devices' state.
func BenchmarkFinish(b *testing.B) {
	state := captured(b, "11.1.3.devices")
	list := append(blocks(), stream.Block{Name: "vga.vram", Used: 16 << 20})
	for _, pages := range []int{0, 16, 512} {
		b.Run(fmt.Sprintf("pages=%d", pages), func(b *testing.B) {
			changed := bytes.Repeat([]byte{1, 2, 3, 4}, pages*stream.PageBytes/4)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				c := composer(b, io.Discard)
				if err := errors.Join(c.Begin(list), c.Ping(1)); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				if err := errors.Join(c.Pages("vga.vram", 0, changed), c.Finish(state, stream.Finish{RunState: "paused"})); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

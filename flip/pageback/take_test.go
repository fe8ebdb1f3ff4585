package pageback

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"qlive/vmstate/stream"
)

// wire writes what a source sends.
type wire struct{ bytes.Buffer }

func (w *wire) part(records ...func(*wire)) *wire {
	return w.section(stream.KindPart, records...)
}

func (w *wire) section(kind stream.Kind, records ...func(*wire)) *wire {
	w.Write([]byte{byte(kind), 0, 0, 0, 2})
	for _, r := range records {
		r(w)
	}
	w.word(stream.FlagEOS)
	w.Write([]byte{0x7e, 0, 0, 0, 2})
	return w
}

func (w *wire) word(v uint64) { w.Write(binary.BigEndian.AppendUint64(nil, v)) }

// page is a page of the block that is named, or of the same as before, filled with a byte.
func page(block string, offset uint64, fill byte) func(*wire) {
	return func(w *wire) {
		flags := uint64(stream.FlagPage)
		if fill == 0 {
			flags = stream.FlagZero
		}
		if block == "" {
			flags |= stream.FlagContinue
		}
		w.word(offset | flags)
		if block != "" {
			w.WriteByte(byte(len(block)))
			w.WriteString(block)
		}
		if fill == 0 {
			w.WriteByte(0)
			return
		}
		w.Write(filled(fill))
	}
}

func filled(fill byte) []byte { return bytes.Repeat([]byte{fill}, stream.PageBytes) }

// channel is what a source has sent, and what it is told.
type channel struct {
	io.Reader
	said bytes.Buffer
}

func (c *channel) Write(b []byte) (int, error) { return c.said.Write(b) }

// source is some memory of this process that plays the source's.
type source struct{ ram, rom []byte }

func newSource(t testing.TB) (source, []Block) {
	t.Helper()
	var s source
	for _, into := range []*[]byte{&s.ram, &s.rom} {
		room, err := unix.Mmap(-1, 0, 4*stream.PageBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Munmap(room) })
		*into = room
	}
	fd, err := unix.MemfdCreate("target", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "target")
	t.Cleanup(func() { _ = file.Close() })
	if err := file.Truncate(4 * stream.PageBytes); err != nil {
		t.Fatal(err)
	}
	at := func(room []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&room[0]))) }
	return s, []Block{{Name: "ram", At: at(s.ram), Bytes: 4 * stream.PageBytes, File: file}, {Name: "rom", At: at(s.rom), Bytes: 2 * stream.PageBytes}}
}

// What a dead target has left is read on, wherever it had stopped, and all pages are where they were.
func TestBack(t *testing.T) {
	all := func() *wire {
		return new(wire).part(page("ram", 0, 1), page("", 4096, 0)).part(page("", 8192, 3), page("", 12288, 4), page("rom", 0, 5)).
			section(stream.KindEnd, page("", 4096, 0))
	}
	end := []byte{byte(stream.KindEOF)}
	for name, tt := range map[string]struct {
		sent   []byte
		placed map[int64]byte // by the target
		count  int64          // of pages that the source says it has sent, without zeroes
		lost   string
	}{
		"all of it":          {sent: append(all().Bytes(), end...)},
		"behind the devices": {sent: append(append(append([]byte("\x05\x00devices"), lastOfDevices...), all().Bytes()...), end...)},
		"before the switch": {sent: slices.Concat(new(wire).part(page("ram", 4096, 9), page("rom", 4096, 9)).Bytes(), []byte{byte(stream.KindCommand), 0, 6, 0, 3, 1, 2, 3},
			[]byte{byte(stream.KindCommand), 0, 7, 0, 4, 0, 0, 0, 7}, []byte("devices"), lastOfDevices[5:], all().Bytes(), end)},
		"inside a page": {sent: slices.Concat(filled(7)[:100], new(wire).part(page("", 4096, 0), page("", 8192, 3), page("", 12288, 4), page("rom", 0, 5), page("", 4096, 0)).Bytes()[5:], end),
			placed: map[int64]byte{0: 1}},
		"before a page whose address it has read": {sent: slices.Concat(filled(1), new(wire).part(page("", 4096, 0), page("", 8192, 3), page("", 12288, 4), page("rom", 0, 5), page("", 4096, 0)).Bytes()[5:], end)},
		"inside the last page of a section":       {sent: slices.Concat(filled(7)[:100], new(wire).part().Bytes()[5:], all().Bytes(), end)},
		"behind their ping":                       {sent: append(append(append([]byte{}, lastOfDevices[5:]...), all().Bytes()...), end...)},
		"what the target had is in its place": {sent: append(new(wire).part(page("", 8192, 3), page("", 12288, 4), page("rom", 0, 5), page("", 4096, 0)).Bytes(), end...),
			placed: map[int64]byte{0: 1, 4096: 0}},
		"older than the switch":        {sent: append(all().Bytes(), end...), placed: map[int64]byte{4096: 9}},
		"read and not placed":          {sent: append(new(wire).part(page("ram", 0, 1), page("", 4096, 0), page("", 8192, 3), page("rom", 0, 5), page("", 4096, 0)).Bytes(), end...), lost: "1 pages of RAM block ram"},
		"cut off":                      {sent: all().Bytes(), lost: "EOF"},
		"nothing":                      {lost: "EOF"},
		"no section":                   {sent: []byte("this is not a stream at all"), lost: "in the middle of something"},
		"a block of another's":         {sent: new(wire).part(page("hpet", 0, 1)).Bytes(), lost: `"hpet"`},
		"a page beyond the end":        {sent: new(wire).part(page("rom", 8192, 1)).Bytes(), lost: "a page at 8192"},
		"a section of no kind":         {sent: append(all().Bytes(), 0x55), lost: "0x55"},
		"a command":                    {sent: append(all().Bytes(), byte(stream.KindCommand), 0, 3, 0, 0), lost: "POSTCOPY_ADVISE"},
		"flags of no kind":             {sent: new(wire).part(page("ram", 0, 1), func(w *wire) { w.word(0x40) }).Bytes(), lost: "0x40"},
		"a block that nobody can tell": {sent: append(new(wire).part(page("", 0, 1)).Bytes(), end...), lost: "which RAM block"},
	} {
		t.Run(name, func(t *testing.T) {
			s, blocks := newSource(t)
			for at, fill := range tt.placed {
				if _, err := blocks[0].File.WriteAt(filled(fill), at); err != nil {
					t.Fatal(err)
				}
			}
			c := &channel{Reader: bytes.NewReader(tt.sent)}
			p, err := take(c, blocks)
			if err == nil {
				err = p.Check(os.Getpid(), tt.count, nil)
			}
			if tt.lost != "" {
				if err == nil || !strings.Contains(err.Error(), tt.lost) {
					t.Fatalf("the error is %v", err)
				}
				return
			}
			if err == nil {
				err = p.Put(t.Context(), os.Getpid())
			}
			if err != nil {
				t.Fatal(err)
			}
			want := bytes.Join([][]byte{filled(1), filled(0), filled(3), filled(4)}, nil)
			if !bytes.Equal(s.ram, want) || !bytes.Equal(s.rom[:8192], append(filled(5), filled(0)...)) {
				t.Error("the source has other memory than before")
			}
			if held := allocated(t, blocks[0].File); held != 0 {
				t.Errorf("%d bytes are still held", held)
			}
			if said := c.said.Bytes(); !bytes.Equal(said[len(said)-8:], []byte{0, 1, 0, 4, 0, 0, 0, 0}) {
				t.Errorf("the source was told %x last", said)
			}
		})
	}
}

func allocated(t *testing.T, f *os.File) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// Whatever bytes come, reading them ends, and touches nothing but the file.
func FuzzTake(f *testing.F) {
	f.Add([]byte{byte(stream.KindEOF)})
	f.Add(new(wire).part(page("ram", 0, 1), page("", 4096, 0)).Bytes())
	f.Add(append([]byte("\x05\x00devices"), lastOfDevices...))
	f.Fuzz(func(t *testing.T, sent []byte) {
		_, blocks := newSource(t)
		_, _ = take(&channel{Reader: bytes.NewReader(sent)}, blocks) // any error will do
	})
}

package wire

import (
	"bytes"
	"strconv"
)

// Up is printed once in each boot, before its first beat.
type Up struct {
	Boot       uint64 // random; the seed of the pattern too
	Pages      uint64 // pages of 4 KiB that hold the pattern, the dirtied ones included
	DirtyPages uint64 // of these, the last DirtyPages are rewritten all the time
	CPUs       uint64 // vCPUs that the guest sees
	BeatMicros uint64 // the period of the beat in µs
	MonoMicros uint64 // CLOCK_MONOTONIC in µs
	WallMicros uint64 // CLOCK_REALTIME in µs since 1970, read together with MonoMicros
}

// Fill is printed when all memory has been written for the first time.
type Fill struct {
	Pages      uint64
	Sum        uint64 // of the pages that are never rewritten; every later Mem must repeat it
	TookMicros uint64
}

// Mem is the result of one verification of all memory.
type Mem struct {
	OK         bool
	Tag        string // "p" for the periodic ones, else what the command said
	Bad        uint64 // pages that did not hold what they should
	Sum        uint64 // of the pages that are never rewritten, as read
	Pages      uint64 // verified
	Gen        uint64 // page writes since boot; never goes back
	Seq        uint64 // the last beat before the verification ended
	Micros     uint64 // CLOCK_MONOTONIC in µs at its end
	TookMicros uint64
}

// Bad describes a page that failed a verification. Only the first few of one are printed.
type Bad struct {
	Page uint64 // index within the pattern
	Word uint64 // the first wrong 64 bit word of the page
	Want uint64
	Got  uint64
	What string // zero, stale, moved, foreign or torn: see pattern.Diagnose
}

// Bye is the last line of a boot that ends on purpose: no beat follows it.
type Bye struct {
	How string // reboot, poweroff or panic
	Seq uint64 // of the last beat
}

// Append appends the line of u, newline included.
func (u Up) Append(dst []byte) []byte {
	w := begin(dst, KindUp)
	w.hex("boot", u.Boot)
	w.dec("pages", u.Pages)
	w.dec("dirty_pages", u.DirtyPages)
	w.dec("cpus", u.CPUs)
	w.dec("beat_us", u.BeatMicros)
	w.dec("mono_us", u.MonoMicros)
	w.dec("wall_us", u.WallMicros)
	return Seal(w.b, w.start)
}

// Append appends the line of f, newline included.
func (f Fill) Append(dst []byte) []byte {
	w := begin(dst, KindFill)
	w.dec("pages", f.Pages)
	w.hex("sum", f.Sum)
	w.dec("took_us", f.TookMicros)
	return Seal(w.b, w.start)
}

// Append appends the line of m, newline included.
func (m Mem) Append(dst []byte) []byte {
	w := begin(dst, KindMem)
	ok := uint64(0)
	if m.OK {
		ok = 1
	}
	w.dec("ok", ok)
	w.str("tag", m.Tag)
	w.dec("bad", m.Bad)
	w.hex("sum", m.Sum)
	w.dec("pages", m.Pages)
	w.dec("gen", m.Gen)
	w.dec("seq", m.Seq)
	w.dec("us", m.Micros)
	w.dec("took_us", m.TookMicros)
	return Seal(w.b, w.start)
}

// Append appends the line of b, newline included.
func (b Bad) Append(dst []byte) []byte {
	w := begin(dst, KindBad)
	w.dec("page", b.Page)
	w.dec("word", b.Word)
	w.hex("want", b.Want)
	w.hex("got", b.Got)
	w.str("what", b.What)
	return Seal(w.b, w.start)
}

// Append appends the line of b, newline included.
func (b Bye) Append(dst []byte) []byte {
	w := begin(dst, KindBye)
	w.str("how", b.How)
	w.dec("seq", b.Seq)
	return Seal(w.b, w.start)
}

// ParseUp reads the payload of a line of KindUp. The error wraps ErrShape.
func ParseUp(payload []byte) (Up, error) {
	r := reader{kind: KindUp, rest: payload}
	u := Up{Boot: r.hex("boot"), Pages: r.dec("pages"), DirtyPages: r.dec("dirty_pages"), CPUs: r.dec("cpus"),
		BeatMicros: r.dec("beat_us"), MonoMicros: r.dec("mono_us"), WallMicros: r.dec("wall_us")}
	return u, r.end()
}

// ParseFill reads the payload of a line of KindFill. The error wraps ErrShape.
func ParseFill(payload []byte) (Fill, error) {
	r := reader{kind: KindFill, rest: payload}
	f := Fill{Pages: r.dec("pages"), Sum: r.hex("sum"), TookMicros: r.dec("took_us")}
	return f, r.end()
}

// ParseMem reads the payload of a line of KindMem. The error wraps ErrShape.
func ParseMem(payload []byte) (Mem, error) {
	r := reader{kind: KindMem, rest: payload}
	m := Mem{OK: r.dec("ok") == 1, Tag: r.str("tag"), Bad: r.dec("bad"), Sum: r.hex("sum"), Pages: r.dec("pages"),
		Gen: r.dec("gen"), Seq: r.dec("seq"), Micros: r.dec("us"), TookMicros: r.dec("took_us")}
	return m, r.end()
}

// ParseBad reads the payload of a line of KindBad. The error wraps ErrShape.
func ParseBad(payload []byte) (Bad, error) {
	r := reader{kind: KindBad, rest: payload}
	b := Bad{Page: r.dec("page"), Word: r.dec("word"), Want: r.hex("want"), Got: r.hex("got"), What: r.str("what")}
	return b, r.end()
}

// ParseBye reads the payload of a line of KindBye. The error wraps ErrShape.
func ParseBye(payload []byte) (Bye, error) {
	r := reader{kind: KindBye, rest: payload}
	b := Bye{How: r.str("how"), Seq: r.dec("seq")}
	return b, r.end()
}

// writer appends members to a line.
type writer struct {
	b     []byte
	start int
}

func begin(dst []byte, kind string) writer {
	return writer{b: append(dst, kind...), start: len(dst)}
}

func (w *writer) key(k string) {
	w.b = append(w.b, ' ')
	w.b = append(w.b, k...)
	w.b = append(w.b, '=')
}

func (w *writer) dec(k string, v uint64) {
	w.key(k)
	w.b = strconv.AppendUint(w.b, v, 10)
}

func (w *writer) hex(k string, v uint64) {
	w.key(k)
	for shift := 60; shift >= 0; shift -= 4 {
		w.b = append(w.b, hexDigits[v>>shift&15])
	}
}

func (w *writer) str(k, v string) {
	w.key(k)
	w.b = append(w.b, Word(v)...)
}

// Word returns s as it can stand as one member of a line: at most 32 letters, digits and -_. and
// never empty. What cannot stand is replaced by '-'.
func Word(s string) string {
	if s == "" {
		return "-"
	}
	b := []byte(s)[:min(len(s), 32)]
	for i, c := range b {
		alnum := c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if !alnum && c != '_' && c != '.' {
			b[i] = '-'
		}
	}
	return string(b)
}

// reader takes members off a payload, in the order in which they were written. The first fault is kept.
type reader struct {
	kind string
	rest []byte
	err  error
}

func (r *reader) take(k string) []byte {
	word, rest, _ := bytes.Cut(r.rest, []byte{' '})
	v, found := bytes.CutPrefix(word, []byte(k+"="))
	if (!found || len(v) == 0) && r.err == nil {
		r.err = shapeError(r.kind, k)
	}
	r.rest = rest
	return v
}

func (r *reader) dec(k string) uint64 {
	b := r.take(k)
	v, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil && r.err == nil {
		r.err = shapeError(r.kind, k)
	}
	return v
}

func (r *reader) hex(k string) uint64 {
	b := r.take(k)
	v, err := strconv.ParseUint(string(b), 16, 64)
	if err != nil && r.err == nil {
		r.err = shapeError(r.kind, k)
	}
	return v
}

func (r *reader) str(k string) string { return string(r.take(k)) }

func (r *reader) end() error {
	if r.err == nil && len(r.rest) != 0 {
		r.err = shapeError(r.kind, "the end")
	}
	return r.err
}

package wire_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"qlive/integration/guest/wire"
)

var lines = map[string]struct{ got, want string }{
	"beat":     {string(wire.Beat{Seq: 1234, Micros: 5678901}.Append(nil)), "B 1234 5678901 5a00\n"},
	"up":       {string(up().Append(nil)), "GUEST-UP boot=00000000000000ab pages=16384 dirty_pages=1024 cpus=2 beat_us=2000 mono_us=3 wall_us=4 8ed3\n"},
	"fill":     {string(wire.Fill{Pages: 1, Sum: 2, TookMicros: 3}.Append(nil)), "FILL pages=1 sum=0000000000000002 took_us=3 fed7\n"},
	"mem":      {string(mem().Append(nil)), "MEM ok=1 tag=p bad=0 sum=00000000000000ff pages=5 gen=6 seq=7 us=8 took_us=9 bd01\n"},
	"bad page": {string(bad().Append(nil)), "BAD page=1 word=2 want=0000000000000003 got=0000000000000004 what=stale f75b\n"},
	"bye":      {string(wire.Bye{How: "reboot", Seq: 9}.Append(nil)), "BYE how=reboot seq=9 8ae2\n"},
	"text":     {string(wire.Text(wire.KindEcho, "a\nb\x00ü c")), "ECHO a?b??? c 8bc9\n"},
}

func up() wire.Up {
	return wire.Up{Boot: 0xab, Pages: 16384, DirtyPages: 1024, CPUs: 2, BeatMicros: 2000, MonoMicros: 3, WallMicros: 4}
}

func mem() wire.Mem {
	return wire.Mem{OK: true, Tag: "p", Sum: 255, Pages: 5, Gen: 6, Seq: 7, Micros: 8, TookMicros: 9}
}

func bad() wire.Bad { return wire.Bad{Page: 1, Word: 2, Want: 3, Got: 4, What: "stale"} }

// The form of the lines is a contract with guests that are running.
func TestLines(t *testing.T) {
	for name, tt := range lines {
		t.Run(name, func(t *testing.T) {
			if tt.got != tt.want {
				t.Errorf("\n got %q\nwant %q", tt.got, tt.want)
			}
		})
	}
}

func TestThereAndBack(t *testing.T) {
	payload := func(line []byte, want string) []byte {
		t.Helper()
		kind, payload, err := wire.Split(bytes.TrimSuffix(line, []byte{'\n'}))
		if kind != want || err != nil {
			t.Fatalf("Split(%q) = %q, %v", line, kind, err)
		}
		return payload
	}
	if got, err := wire.ParseUp(payload(up().Append(nil), wire.KindUp)); got != up() || err != nil {
		t.Errorf("Up: %+v, %v", got, err)
	}
	if got, err := wire.ParseMem(payload(mem().Append(nil), wire.KindMem)); got != mem() || err != nil {
		t.Errorf("Mem: %+v, %v", got, err)
	}
	if got, err := wire.ParseBad(payload(bad().Append(nil), wire.KindBad)); got != bad() || err != nil {
		t.Errorf("Bad: %+v, %v", got, err)
	}
	fill := wire.Fill{Pages: 1, Sum: 1 << 63, TookMicros: 3}
	if got, err := wire.ParseFill(payload(fill.Append(nil), wire.KindFill)); got != fill || err != nil {
		t.Errorf("Fill: %+v, %v", got, err)
	}
	bye := wire.Bye{How: "poweroff", Seq: 9}
	if got, err := wire.ParseBye(payload(bye.Append(nil), wire.KindBye)); got != bye || err != nil {
		t.Errorf("Bye: %+v, %v", got, err)
	}
}

func TestWhatIsNotALine(t *testing.T) {
	good := string(bytes.TrimSuffix(wire.Beat{Seq: 7, Micros: 99}.Append(nil), []byte{'\n'}))
	tests := map[string]struct {
		line string
		want error
	}{
		"empty":                  {"", wire.ErrShape},
		"the checksum alone":     {" 1234", wire.ErrShape},
		"no checksum":            {"B 1 2", wire.ErrShape},
		"checksum in capitals":   {"B 1 2 ABCD", wire.ErrShape},
		"unknown kind":           {"C 1 2 abcd", wire.ErrShape},
		"wrong checksum":         {"B 1 2 abcd", wire.ErrSum},
		"a letter changed":       {strings.Replace(good, "7", "8", 1), wire.ErrSum},
		"beginning cut off":      {good[1:], wire.ErrShape},
		"carriage return":        {good + "\r", wire.ErrShape},
		"longer than any can be": {"ECHO " + strings.Repeat("x", wire.MaxLine) + " abcd", wire.ErrShape},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, _, err := wire.Split([]byte(tt.line)); !errors.Is(err, tt.want) {
				t.Errorf("Split(%q) = %v, want %v", tt.line, err, tt.want)
			}
		})
	}
}

func TestPayloadsThatAreNot(t *testing.T) {
	for _, payload := range []string{"", " ", "ok=1", "ok=1 tag=", "page=1 word=x", "how=reboot seq=1 more=2", "1", "01 2", "1 -2", "1 2 3", "1 99999999999999999999"} {
		t.Run(payload, func(t *testing.T) {
			b := []byte(payload)
			_, e1 := wire.ParseUp(b)
			_, e2 := wire.ParseMem(b)
			_, e3 := wire.ParseBad(b)
			_, e4 := wire.ParseBye(b)
			_, e5 := wire.ParseFill(b)
			_, e6 := wire.ParseBeat(b)
			for _, err := range []error{e1, e2, e3, e4, e5, e6} {
				if !errors.Is(err, wire.ErrShape) {
					t.Errorf("no error, or another: %v", err)
				}
			}
		})
	}
}

func TestLongestLinesFit(t *testing.T) {
	const most = ^uint64(0)
	long := strings.Repeat("w", 100)
	for _, line := range [][]byte{
		wire.Beat{Seq: most, Micros: 1 << 62}.Append(nil),
		wire.Up{Boot: most, Pages: most, DirtyPages: most, CPUs: most, BeatMicros: most, MonoMicros: most, WallMicros: most}.Append(nil),
		wire.Mem{Tag: long, Bad: most, Sum: most, Pages: most, Gen: most, Seq: most, Micros: most, TookMicros: most}.Append(nil),
		wire.Bad{Page: most, Word: most, Want: most, Got: most, What: long}.Append(nil),
		wire.Text(wire.KindErr, strings.Repeat(long, 9)),
	} {
		if _, _, err := wire.Split(line[:len(line)-1]); err != nil {
			t.Errorf("%d bytes: %v: %s", len(line), err, line)
		}
	}
}

func TestABeatCostsNoMemory(t *testing.T) {
	buf := make([]byte, 0, wire.MaxLine)
	if n := testing.AllocsPerRun(100, func() { _ = wire.Beat{Seq: 1 << 40, Micros: 1 << 50}.Append(buf) }); n != 0 {
		t.Errorf("writing a beat allocates %v times", n)
	}
}

func FuzzSplit(f *testing.F) {
	for _, l := range lines {
		f.Add([]byte(strings.TrimSuffix(l.want, "\n")))
	}
	f.Add([]byte("B 1 2 abcd"))
	f.Fuzz(func(t *testing.T, line []byte) {
		kind, payload, err := wire.Split(line)
		if err != nil {
			return
		}
		body := append([]byte(kind+" "), payload...)
		if b, err := wire.ParseBeat(payload); kind == wire.KindBeat && err == nil && !bytes.Equal(b.Append(nil)[:len(line)], line) {
			t.Errorf("%q reads as %+v, which is written otherwise", line, b)
		}
		if len(payload) > 0 && !bytes.Equal(wire.Seal(body, 0), append(line, '\n')) {
			t.Errorf("%q does not seal to itself", line)
		}
		_, _ = wire.ParseUp(payload)
		_, _ = wire.ParseMem(payload)
		_, _ = wire.ParseBad(payload)
		_, _ = wire.ParseBye(payload)
		_, _ = wire.ParseFill(payload)
	})
}

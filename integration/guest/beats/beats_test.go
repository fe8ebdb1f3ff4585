package beats_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"qlive/integration/guest/beats"
	"qlive/integration/guest/wire"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func up(boot uint64) string { return string(wire.Up{Boot: boot, Pages: 16}.Append(nil)) }

func fill(sum uint64) string { return string(wire.Fill{Pages: 16, Sum: sum}.Append(nil)) }

func mem(ok bool, sum, gen uint64) string {
	return string(wire.Mem{OK: ok, Sum: sum, Gen: gen, Pages: 16}.Append(nil))
}

// beat is beat seq, 2 ms after the one before.
func beat(seq uint64) string {
	return string(wire.Beat{Seq: seq, Micros: int64(seq) * 2000}.Append(nil))
}

func run(from, to uint64) string {
	var b strings.Builder
	for seq := from; seq <= to; seq++ {
		b.WriteString(beat(seq))
	}
	return b.String()
}

func bye(how string, seq uint64) string { return string(wire.Bye{How: how, Seq: seq}.Append(nil)) }

func text(kind, s string) string { return string(wire.Text(kind, s)) }

// faults is what a report says is wrong, without the rest.
type faults struct {
	Boots                                         int
	Beats, Lost, Repeated, OutOfOrder, Back, Torn uint64
	Cut, Mems, BadMems, Panics                    uint64
	Errors, Kernel                                int
}

func faultsOf(r beats.Report) faults {
	return faults{len(r.Boots), r.Beats, r.Lost, r.Repeated, r.OutOfOrder, r.ClockBack, r.Torn, r.Cut, r.Mems, r.BadMems, r.Panics,
		len(r.Errors), len(r.Kernel)}
}

func TestAnalyze(t *testing.T) {
	half := beat(5)[:7]
	panicked := "[    1.234567] Kernel panic - not syncing: sysrq triggered crash\r\n[    1.2] CPU: 0\r\nfree text\r\n"
	tests := map[string]struct {
		in   string
		want faults
		bad  string // what Check's error says; empty for none
	}{
		"nothing":             {"", faults{}, "none"},
		"firmware alone":      {"SeaBIOS\r\nBooting\r\n", faults{}, "none"},
		"a boot":              {up(1) + run(1, 9), faults{Boots: 1, Beats: 9}, ""},
		"firmware before":     {"\x1bc\x00SeaBIOS\r\n\n" + up(1) + run(1, 9), faults{Boots: 1, Beats: 9}, ""},
		"begins in the midst": {half[3:] + "\n" + run(7, 9), faults{Boots: 1, Beats: 3}, ""},
		"unfinished line":     {up(1) + run(1, 4) + half, faults{Boots: 1, Beats: 4}, ""},
		"memory is fine":      {up(1) + fill(7) + run(1, 2) + mem(true, 7, 1) + run(3, 4) + mem(true, 7, 2), faults{Boots: 1, Beats: 4, Mems: 2}, ""},

		"lost":              {up(1) + run(1, 4) + run(7, 9), faults{Boots: 1, Beats: 7, Lost: 2}, "2 beats lost"},
		"lost at the start": {up(1) + run(4, 9), faults{Boots: 1, Beats: 6, Lost: 3}, "3 beats lost"},
		"repeated":          {up(1) + run(1, 4) + run(3, 9), faults{Boots: 1, Beats: 11, Repeated: 2}, "2 beats repeated"},
		"out of order":      {up(1) + run(1, 4) + beat(6) + beat(5) + run(7, 9), faults{Boots: 1, Beats: 9, OutOfOrder: 1}, "1 beats out of order"},
		"late and twice":    {up(1) + run(1, 4) + beat(6) + beat(5) + beat(5), faults{Boots: 1, Beats: 7, OutOfOrder: 1, Repeated: 1}, "1 beats repeated"},
		"torn by a loss":    {up(1) + run(1, 4) + half + run(6, 9), faults{Boots: 1, Beats: 7, Lost: 2, Torn: 1}, "1 torn lines"},
		"torn by an insert": {up(1) + run(1, 4) + half + "xx" + beat(5)[7:] + run(6, 9), faults{Boots: 1, Beats: 8, Lost: 1, Torn: 1}, "1 torn lines"},
		"clock gone back":   {up(1) + run(1, 4) + string(wire.Beat{Seq: 5, Micros: 3}.Append(nil)), faults{Boots: 1, Beats: 5, Back: 1}, "clock gone back"},

		"bad memory":         {up(1) + fill(7) + run(1, 2) + mem(false, 7, 1), faults{Boots: 1, Beats: 2, Mems: 1, BadMems: 1}, "1 bad verifications"},
		"another sum":        {up(1) + fill(7) + run(1, 2) + mem(true, 8, 1), faults{Boots: 1, Beats: 2, Mems: 1, BadMems: 1}, "1 bad verifications"},
		"memory gone back":   {up(1) + fill(7) + run(1, 2) + mem(true, 7, 5) + mem(true, 7, 4), faults{Boots: 1, Beats: 2, Mems: 2, BadMems: 1}, "1 bad verifications"},
		"another boot's sum": {up(1) + fill(7) + mem(true, 7, 5) + run(1, 2) + up(2) + fill(8) + mem(true, 8, 1), faults{Boots: 2, Beats: 2, Mems: 2}, ""},
		"the guest's errors": {up(1) + run(1, 2) + text(wire.KindErr, "cannot mount"), faults{Boots: 1, Beats: 2, Errors: 1}, "cannot mount"},

		"reboot asked for":         {up(1) + run(1, 4) + bye("reboot", 4) + "firmware\n" + up(2) + run(1, 2), faults{Boots: 2, Beats: 6}, ""},
		"reset cuts a line":        {up(1) + run(1, 4) + half + "\n" + up(2) + run(1, 2), faults{Boots: 2, Beats: 6, Cut: 1}, ""},
		"reset between lines":      {up(1) + run(1, 4) + "\n" + up(2) + run(1, 2), faults{Boots: 2, Beats: 6}, ""},
		"empty line":               {up(1) + run(1, 4) + "\n" + run(5, 9), faults{Boots: 1, Beats: 9, Torn: 1}, "1 torn lines"},
		"reset and firmware":       {up(1) + run(1, 4) + half + "SeaBIOS (version 1)\r\nBooting\r\n\n" + up(2) + run(1, 2), faults{Boots: 2, Beats: 6, Cut: 1}, ""},
		"torn, later a reset":      {up(1) + half + "\n" + run(1, 4) + "\n" + up(2) + run(1, 2), faults{Boots: 2, Beats: 6, Torn: 1}, "1 torn lines"},
		"beat lost before the end": {up(1) + run(1, 4) + bye("poweroff", 5), faults{Boots: 1, Beats: 4, Errors: 1}, "ended after beat 5"},
		"panic asked for":          {up(1) + run(1, 4) + bye("panic", 4) + panicked, faults{Boots: 1, Beats: 4, Panics: 1, Kernel: 2}, ""},
		"panic not asked for":      {up(1) + run(1, 4) + half + panicked, faults{Boots: 1, Beats: 4, Panics: 1, Kernel: 1}, "1 unasked kernel panics"},
		"kernel speaks":            {up(1) + run(1, 4) + "[    9.876543] hm\r\n" + run(5, 9), faults{Boots: 1, Beats: 9, Kernel: 1}, ""},
		"kernel speaks inside":     {up(1) + run(1, 4) + half + "[    9.8] hm\r\n" + beat(5)[7:] + run(6, 9), faults{Boots: 1, Beats: 8, Lost: 1, Torn: 2}, "2 torn lines"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := beats.Analyze(strings.NewReader(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, faultsOf(r)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			err = r.Check()
			if (err == nil) != (tt.bad == "") || (err != nil && !strings.Contains(err.Error(), tt.bad)) {
				t.Errorf("Check() = %v, want %q", err, tt.bad)
			}
		})
	}
}

func TestStory(t *testing.T) {
	in := up(0xaa) + fill(7) + run(1, 3) + text(wire.KindEcho, "hello") + bye("reboot", 3) + up(0xbb) + beat(1)
	r, err := beats.Analyze(strings.NewReader(in))
	if err != nil || len(r.Boots) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	first, second := r.Boots[0], r.Boots[1]
	if first.Up.Boot != 0xaa || first.Fill.Sum != 7 || first.Bye.How != "reboot" || first.First.Seq != 1 || first.Last.Seq != 3 {
		t.Errorf("first boot: %+v", first)
	}
	if second.Up.Boot != 0xbb || second.Fill != nil || second.Bye != nil || second.Last.Seq != 1 {
		t.Errorf("second boot: %+v", second)
	}
	if diff := cmp.Diff([]string{"hello"}, r.Answers); diff != "" {
		t.Error(diff)
	}
}

func TestGaps(t *testing.T) {
	var p beats.Parser
	at := time.Unix(1000, 0)
	feed := func(after time.Duration, seq uint64, us int64) {
		at = at.Add(after)
		p.Feed(wire.Beat{Seq: seq, Micros: us}.Append(nil), at)
	}
	p.Feed([]byte(up(1)), at)
	feed(0, 1, 1000)
	feed(2*time.Millisecond, 2, 3000)
	feed(9*time.Millisecond, 3, 6000) // stood still for 6 ms
	w := p.Window()
	if w.Host != 9*time.Millisecond || w.HostSeq != 3 || w.Guest != 3*time.Millisecond || w.GuestSeq != 3 {
		t.Errorf("first window: %v at %d, %v at %d", w.Host, w.HostSeq, w.Guest, w.GuestSeq)
	}
	feed(2*time.Millisecond, 4, 8000)
	feed(50*time.Millisecond, 6, 90000) // over a lost beat there is no gap, but a loss
	if w = p.Window(); w.Host != 2*time.Millisecond || w.GuestAll.N() != 1 {
		t.Errorf("second window: %v, %d gaps", w.Host, w.GuestAll.N())
	}
	g := p.Report().Gaps
	if g.Host != 9*time.Millisecond || g.HostAll.Quantile(1) != 9100*time.Microsecond || g.HostAll.Quantile(0.5) != 2100*time.Microsecond {
		t.Errorf("in all: %v, quantiles %v %v", g.Host, g.HostAll.Quantile(1), g.HostAll.Quantile(0.5))
	}
	if lag := p.Report().Boots[0].Lag(); lag != 63*time.Millisecond-89*time.Millisecond {
		t.Errorf("lag = %v", lag)
	}
}

var pieces = []string{up(1), up(2), fill(7), run(1, 5), run(3, 9), beat(8), beat(6), mem(true, 7, 1), mem(false, 7, 2), "\n", "\r\n",
	"B 1 2", "[    1.2] Kernel panic - not syncing: x\r\n", "[    2.0] hm\n", bye("reboot", 5), text(wire.KindErr, "e"), text(wire.KindEcho, "x"),
	"\x00junk", strings.Repeat("long", 1000), string(wire.Bad{What: "zero"}.Append(nil))}

// difference tells two reports apart, but for Pending: an endless line is kept in part.
func difference(a, b beats.Report) string {
	a.Pending, b.Pending = 0, 0
	if reflect.DeepEqual(a, b) {
		return "" // the comparison below takes a hundred times as long
	}
	return cmp.Diff(a, b, cmp.AllowUnexported(beats.Histogram{}), cmpopts.EquateEmpty())
}

// The generations of a guest's QEMU cut its console anywhere; so do reads.
func TestCutsDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 12).Draw(t, "pieces"), "")
		want, err := beats.Analyze(strings.NewReader(all))
		if err != nil {
			t.Fatal(err)
		}
		var p beats.Parser
		var generations []io.Reader
		cuts := rapid.SliceOfN(rapid.IntRange(1, 200), 0, 20).Draw(t, "cuts")
		for rest := all; len(rest) > 0; {
			n := len(rest)
			if len(cuts) > 0 {
				n, cuts = min(n, cuts[0]), cuts[1:]
			}
			_, _ = p.Write([]byte(rest[:n]))
			_ = p.Report() // looking does not matter either
			generations = append(generations, strings.NewReader(rest[:n]))
			rest = rest[n:]
		}
		joined, err := beats.Analyze(io.MultiReader(generations...))
		if err != nil {
			t.Fatal(err)
		}
		if diff := difference(want, p.Report()); diff != "" {
			t.Errorf("fed in pieces, -want +got:\n%s", diff)
		}
		if diff := difference(want, joined); diff != "" {
			t.Errorf("joined, -want +got:\n%s", diff)
		}
	})
}

// A stream from which bytes are missing, into which some were put, or of which a part comes twice is
// never found in order.
func TestDamageIsSeen(t *testing.T) {
	whole := up(1) + run(1, 50)
	base := len(up(1))
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.IntRange(base, len(whole)-len(beat(50))-1).Draw(t, "from")
		n := rapid.IntRange(1, len(whole)-len(beat(50))-from).Draw(t, "n")
		damaged := map[string]string{
			"lost":     whole[:from] + whole[from+n:],
			"repeated": whole[:from+n] + whole[from:],
			"changed":  whole[:from] + string(whole[from]^1) + whole[from+1:],
		}
		for what, in := range damaged {
			r, err := beats.Analyze(strings.NewReader(in))
			if err != nil {
				t.Fatal(err)
			}
			if r.Check() == nil {
				t.Errorf("%d bytes %s at %d pass: %q", n, what, from, in)
			}
		}
	})
}

func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "console")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := beats.Follow(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for _, part := range []string{"one", "two\nthree"} {
		if _, err := f.WriteString(part); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(part))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != part {
			t.Fatalf("read %q, %v; want %q", got, err, part)
		}
	}
	if _, err := f.WriteString("the last"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if rest, err := io.ReadAll(r); string(rest) != "the last" || err != nil {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

func TestAnalyzeSaysWhyItCannotRead(t *testing.T) {
	broken := errors.New("broken")
	r, err := beats.Analyze(io.MultiReader(strings.NewReader(up(1)+run(1, 3)), iotestErr{broken}))
	if !errors.Is(err, broken) || r.Beats != 3 {
		t.Errorf("%d beats, %v", r.Beats, err)
	}
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

func FuzzAnalyze(f *testing.F) {
	for _, p := range pieces {
		f.Add([]byte(up(1)+run(1, 3)+p+run(4, 6)), 40)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		want, err := beats.Analyze(bytes.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		cut = min(max(cut, 0), len(in))
		var p beats.Parser
		p.Feed(in[:cut], time.Time{})
		p.Feed(in[cut:], time.Time{})
		got := p.Report()
		if diff := difference(want, got); diff != "" {
			t.Errorf("cut at %d, -want +got:\n%s", cut, diff)
		}
		if lines := uint64(bytes.Count(in, []byte{'\n'})); got.Beats+got.Torn+got.Mems > lines {
			t.Errorf("%d beats, %d torn, %d verifications from %d lines", got.Beats, got.Torn, got.Mems, lines)
		}
		_ = got.Check()
	})
}

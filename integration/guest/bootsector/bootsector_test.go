package bootsector_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qlive/integration/guest/bootsector"

	"pgregory.net/rapid"
)

func TestProgramIsTheSource(t *testing.T) {
	dir := t.TempDir()
	object, raw := filepath.Join(dir, "boot.o"), filepath.Join(dir, "boot.raw")
	for _, argv := range [][]string{
		{"as", "--32", "testdata/boot.s", "-o", object},
		{"objcopy", "-O", "binary", object, raw},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("cannot assemble boot.s (the package binutils has what it takes): %v\n%s", err, out)
		}
	}
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	image := bootsector.Image()
	if got := bytes.TrimRight(image[:510], "\x00"); !bytes.Equal(got, bytes.TrimRight(want, "\x00")) {
		t.Errorf("program.go is not boot.s:\n got %x\nwant %x", got, want)
	}
	if image[510] != 0x55 || image[511] != 0xaa {
		t.Errorf("the boot sector has no signature: %x", image[510:512])
	}
}

func counts(from, to uint32) string {
	var b strings.Builder
	for n := from; n != to+bootsector.Step; n += bootsector.Step {
		fmt.Fprintf(&b, "T%08X\n", n)
	}
	return b.String()
}

func TestAnalyze(t *testing.T) {
	const step = bootsector.Step
	tests := map[string]struct {
		in   string
		want bootsector.Report
		bad  bool
	}{
		"nothing":             {"", bootsector.Report{}, true},
		"a boot":              {counts(step, 10*step), bootsector.Report{Lines: 10, First: step, Last: 10 * step, Boots: 1}, false},
		"firmware before":     {"SeaBIOS\r\n\nBooting\n" + counts(step, 2*step), bootsector.Report{Lines: 2, First: step, Last: 2 * step, Boots: 1}, false},
		"begins in the midst": {"0200\n" + counts(0x10000, 0x10000+step), bootsector.Report{Lines: 2, First: 0x10000, Last: 0x10000 + step}, false},
		"reset":               {counts(step, 4*step) + counts(step, 3*step), bootsector.Report{Lines: 7, First: step, Last: 3 * step, Boots: 2}, false},
		"wraps around":        {counts(0xfffff800, 4*step), bootsector.Report{Lines: 9, First: 0xfffff800, Last: 4 * step}, false},
		"lost":                {counts(step, 4*step) + counts(7*step, 8*step), bootsector.Report{Lines: 6, First: step, Last: 8 * step, Boots: 1, Lost: 2}, true},
		"repeated":            {counts(step, 4*step) + counts(4*step, 5*step), bootsector.Report{Lines: 6, First: step, Last: 5 * step, Boots: 1, Repeated: 1}, true},
		"gone back":           {counts(step, 4*step) + counts(3*step, 4*step), bootsector.Report{Lines: 6, First: step, Last: 4 * step, Boots: 1, Repeated: 1}, true},
		"torn":                {counts(step, 2*step) + "T0000\n" + counts(3*step, 3*step), bootsector.Report{Lines: 3, First: step, Last: 3 * step, Boots: 1, Torn: 1, Example: "T0000"}, true},
		"joined":              {counts(step, 2*step) + "T00T00000600\n" + counts(4*step, 4*step), bootsector.Report{Lines: 3, First: step, Last: 4 * step, Boots: 1, Torn: 1, Lost: 1, Example: "T00T00000600"}, true},
		"off the grid":        {counts(step, 2*step) + "T00000401\n", bootsector.Report{Lines: 2, First: step, Last: 2 * step, Boots: 1, Torn: 1, Example: "T00000401"}, true},
		"RAM is stale":        {counts(step, 2*step) + "X00000123\n" + counts(3*step, 3*step), bootsector.Report{Lines: 3, First: step, Last: 3 * step, Boots: 1, RAM: 1}, true},
		"unfinished":          {counts(step, 2*step) + "T000", bootsector.Report{Lines: 2, First: step, Last: 2 * step, Boots: 1}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := bootsector.Analyze(strings.NewReader(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("\n got %+v\nwant %+v", got, tt.want)
			}
			if err := got.Check(); (err != nil) != tt.bad {
				t.Errorf("Check() = %v, want an error: %v", err, tt.bad)
			}
		})
	}
}

func TestGap(t *testing.T) {
	var c bootsector.Counter
	at := time.Unix(1000, 0)
	for i, after := range []time.Duration{0, 3, 20, 4} {
		at = at.Add(after * time.Millisecond)
		c.Feed([]byte(counts(uint32(i+1)*bootsector.Step, uint32(i+1)*bootsector.Step)), at)
	}
	if got := c.Report().MaxGap; got != 20*time.Millisecond {
		t.Errorf("MaxGap = %v, want 20ms", got)
	}
}

func TestCutsDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(rapid.SampledFrom([]string{counts(bootsector.Step, 5*bootsector.Step), counts(6*bootsector.Step, 9*bootsector.Step),
			"T0000", "X00000001\n", "\n", "junk\r\n", "T00000401\n"}), 0, 8).Draw(t, "pieces")
		all := []byte(strings.Join(in, ""))
		want, _ := bootsector.Analyze(bytes.NewReader(all))
		var c bootsector.Counter
		for len(all) > 0 {
			n := rapid.IntRange(1, len(all)).Draw(t, "n")
			_, _ = c.Write(all[:n])
			all = all[n:]
		}
		if got := c.Report(); got != want {
			t.Errorf("\n got %+v\nwant %+v", got, want)
		}
	})
}

func FuzzAnalyze(f *testing.F) {
	f.Add([]byte(counts(bootsector.Step, 3*bootsector.Step)))
	f.Add([]byte("T0000\nX00000000\nT00000000\nTFFFFFE00\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := bootsector.Analyze(bytes.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		if lines := uint64(bytes.Count(in, []byte{'\n'})); r.Lines+r.Torn+r.RAM > lines {
			t.Errorf("%+v from %d lines", r, lines)
		}
	})
}

package postcopy

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	r := Report{Options: Options{MiB: 1024, From: "7.2.22", To: "10.0.13"}, Pairs: []Pair{
		{Qlive: Sample{MiBPerS: 200, PeakMiB: 1030}, Bare: Sample{MiBPerS: 100}},
		{Qlive: Sample{MiBPerS: 90, PeakMiB: 1031}, Bare: Sample{MiBPerS: 100}},
		{Qlive: Sample{MiBPerS: 100, PeakMiB: 1029}, Bare: Sample{MiBPerS: 100}},
	}}
	var out strings.Builder
	if err := r.Write(&out, "table"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| MiB/s | 100.00 (90.00 to 200.00) | 100.00 (100.00 to 100.00) |", "in pairs: 1.00 (0.90 to 2.00)", "1030.00 (1029.00 to 1031.00)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	values := make([]float64, 32) // 10 and 23 of 32 are the textbook's ranks
	for i := range values {
		values[i] = float64(i + 1)
	}
	if low, high := confidence(values); low != 10 || high != 23 {
		t.Errorf("the median of 32 lies between the %v. and the %v.", low, high)
	}
	if s := spreadOf([]float64{4, 1, 3, 2}); s != (spread{1, 2.5, 4}) {
		t.Errorf("%+v", s)
	}
}

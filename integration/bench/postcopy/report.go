package postcopy

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
)

// Report is what was measured.
type Report struct {
	Options Options `json:"options"`
	Pairs   []Pair  `json:"pairs"`
}

// spread is the middle and the ends of some values.
type spread struct{ least, middle, most float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	s := slices.Sorted(slices.Values(values))
	n := len(s)
	return spread{s[0], (s[(n-1)/2] + s[n/2]) / 2, s[n-1]}
}

// confidence is where the median of what the values were drawn from lies, with a confidence of 95 %: between two of the values (order statistics, by the
// normal approximation of the sign test).
func confidence(values []float64) (low, high float64) {
	n := len(values)
	if n == 0 {
		return 0, 0
	}
	s := slices.Sorted(slices.Values(values))
	k := max(0, int((float64(n)-1.96*math.Sqrt(float64(n)))/2)-1)
	return s[k], s[n-1-k]
}

func (s spread) String() string { return fmt.Sprintf("%.2f (%.2f to %.2f)", s.middle, s.least, s.most) }

// Write prints the report: json has every move, table and markdown have the middle of each column and its ends.
func (r Report) Write(out io.Writer, format string) error {
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	of := func(f func(Pair) float64) spread {
		var values []float64
		for _, p := range r.Pairs {
			values = append(values, f(p))
		}
		return spreadOf(values)
	}
	rows := []struct {
		name string
		of   func(Sample) float64
	}{
		{name: "MiB/s", of: func(s Sample) float64 { return s.MiBPerS }},
		{name: "pause, ms", of: func(s Sample) float64 { return s.PauseMS }},
		{name: "guest RAM at the peak, MiB", of: func(s Sample) float64 { return s.PeakMiB }},
		{name: "host at the peak beyond the start, MiB", of: func(s Sample) float64 { return s.HostMiB }},
	}
	text := fmt.Sprintf("%d pairs, QEMU %s to %s, guest of %d MiB, %.0f MiB of them touched; median (least to most)\n\n", len(r.Pairs), r.Options.From, r.Options.To,
		r.Options.MiB, of(func(p Pair) float64 { return p.Qlive.StartMiB }).middle)
	text += "| | qlive | by hand |\n|---|---|---|\n"
	for _, row := range rows {
		text += fmt.Sprintf("| %s | %s | %s |\n", row.name, of(func(p Pair) float64 { return row.of(p.Qlive) }), of(func(p Pair) float64 { return row.of(p.Bare) }))
	}
	var ratios []float64
	for _, p := range r.Pairs {
		ratios = append(ratios, p.Ratio())
	}
	low, high := confidence(ratios)
	text += fmt.Sprintf("\nthroughput, qlive over by hand, in pairs: %s; its median lies between %.2f and %.2f (95 %%)\n", of(Pair.Ratio), low, high)
	_, err := io.WriteString(out, text)
	return err
}

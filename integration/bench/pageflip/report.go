package pageflip

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"time"

	"qlive/integration/bench"
)

// Report is what a run has measured.
type Report struct {
	Machine    bench.Machine `json:"machine"`
	Seed       uint64        `json:"seed"`
	Began      time.Time     `json:"began"`
	Took       time.Duration `json:"took_ns"`
	Bytes      int           `json:"bytes"` // of each move
	ChunkBytes int           `json:"chunk_bytes"`
	Rows       []Row         `json:"rows"`
}

// Row is one route.
type Row struct {
	Route Route           `json:"route"`
	Count int             `json:"count"`
	Rate  Spread          `json:"gib_per_s"`
	CPU   Spread          `json:"cpu_ms_per_gib"` // of both processes
	Held  Spread          `json:"held_bytes"`     // of the host at the peak, beyond the start
	Moved Spread          `json:"moved_pages"`    // pages that lie in the frame that they lay in
	Pages int             `json:"pages"`          // all pages of a move
	Ratio *bench.Estimate `json:"to_pwrite,omitempty"`

	Samples []Sample `json:"samples"` // in the order in which they were taken
}

// Spread is the median and the two ends of a set of numbers.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

const gib = 1 << 30

func newRow(r Route, bytes int, samples, beside []Sample, rng *rand.Rand) Row {
	size := float64(bytes) / gib
	rate := func(s Sample) float64 { return size / time.Duration(s.TookNS).Seconds() }
	row := Row{
		Route: r, Count: len(samples), Samples: samples,
		Rate:  spread(samples, rate),
		CPU:   spread(samples, func(s Sample) float64 { return float64(s.CPUNS) / 1e6 / size }),
		Held:  spread(samples, func(s Sample) float64 { return float64(s.HeldBytes) }),
		Moved: spread(samples, func(s Sample) float64 { return float64(s.MovedPages) }),
	}
	if len(samples) > 0 {
		row.Pages = samples[0].Pages
	}
	if r != Pwrite {
		if e, ok := bench.PairedRatio(rng, values(samples, rate), values(beside, rate)); ok {
			row.Ratio = &e
		}
	}
	return row
}

func values(samples []Sample, of func(Sample) float64) []float64 {
	v := make([]float64, len(samples))
	for i, s := range samples {
		v[i] = of(s)
	}
	return v
}

func spread(samples []Sample, of func(Sample) float64) Spread {
	v := values(samples, of)
	if len(v) == 0 {
		return Spread{}
	}
	s := Spread{Median: bench.QuantilesOf(v).P50, Min: math.Inf(1), Max: math.Inf(-1)}
	for _, x := range v {
		s.Min, s.Max = min(s.Min, x), max(s.Max, x)
	}
	return s
}

// Write writes the report in one of the formats of [bench.Formats]. Only json has every single move in it.
func (r Report) Write(w io.Writer, format string) error {
	if format == "json" {
		return bench.WriteJSON(w, r)
	}
	about := append(r.Machine.Lines(),
		fmt.Sprintf("%d MiB a move, chunks of %d KiB, 4 KiB pages", r.Bytes>>20, r.ChunkBytes>>10),
		fmt.Sprintf("%s, %d s, seed %d", r.Began.Format("2006-01-02 15:04 MST"), int(r.Took.Seconds()), r.Seed))
	return bench.WriteTables(w, format, about, r.table())
}

func (r Report) table() [][]string {
	table := [][]string{{"route", "", "n", "GiB/s", "min … max", "CPU ms/GiB", "min … max", "held MiB", "min … max", "pages moved", "to pwrite", "95 %"}}
	for _, row := range r.Rows {
		ratio, within := "", ""
		if row.Ratio != nil {
			ratio, within = number(row.Ratio.Value), number(row.Ratio.Low)+" … "+number(row.Ratio.High)
		}
		mib := func(bytes float64) string { return fmt.Sprintf("%.1f", bytes/(1<<20)) }
		table = append(table, []string{
			row.Route.cell(), row.Route.what(), fmt.Sprint(row.Count),
			number(row.Rate.Median), number(row.Rate.Min) + " … " + number(row.Rate.Max),
			number(row.CPU.Median), number(row.CPU.Min) + " … " + number(row.CPU.Max),
			mib(row.Held.Median), mib(row.Held.Min) + " … " + mib(row.Held.Max),
			fmt.Sprintf("%.0f of %d", row.Moved.Median, row.Pages), ratio, within,
		})
	}
	return table
}

// number has two digits behind the point where that means something.
func number(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

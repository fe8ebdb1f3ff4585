package rehouse

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"qlive/integration/bench"
)

// Report is what a run has measured.
type Report struct {
	Machine bench.Machine `json:"machine"`
	Seed    uint64        `json:"seed"`
	Began   time.Time     `json:"began"`
	Took    time.Duration `json:"took_ns"`
	Bytes   int           `json:"bytes"` // of each move
	Rows    []Row         `json:"rows"`
}

// Row is one pair of backings. Times are in ms.
type Row struct {
	Pair
	Count  int             `json:"count"`
	Qlive  bench.Quantiles `json:"qlive_ms"`
	Memcpy bench.Quantiles `json:"memcpy_ms"`
	Held   bench.Quantiles `json:"held_bytes"` // by qlive's
	Free   bench.Quantiles `json:"free_ms"`    // of the old file, after a memcpy
	// Ratio is qlive's time to that of a memcpy and of freeing the old file afterwards, which is what qlive does; Bare to that of the memcpy alone.
	Ratio *bench.Estimate `json:"to_memcpy_and_free,omitempty"`
	Bare  *bench.Estimate `json:"to_memcpy,omitempty"`

	Samples []Sample `json:"samples"` // qlive's, in the order in which they were taken
	Beside  []Sample `json:"beside"`  // memcpy's
}

func newRow(p Pair, qlive, beside []Sample, rng *rand.Rand) Row {
	of := func(samples []Sample, field func(Sample) float64) []float64 {
		var v []float64
		for _, s := range samples {
			v = append(v, field(s))
		}
		return v
	}
	took := func(s Sample) float64 { return float64(s.TookNS) / 1e6 }
	freed := func(s Sample) float64 { return float64(s.FreeNS) / 1e6 }
	row := Row{
		Pair: p, Count: len(qlive), Samples: qlive, Beside: beside,
		Held:  bench.QuantilesOf(of(qlive, func(s Sample) float64 { return float64(s.HeldBytes) })),
		Qlive: bench.QuantilesOf(of(qlive, took)), Memcpy: bench.QuantilesOf(of(beside, took)), Free: bench.QuantilesOf(of(beside, freed)),
	}
	if e, ok := bench.PairedRatio(rng, of(qlive, took), of(beside, func(s Sample) float64 { return took(s) + freed(s) })); ok {
		row.Ratio = &e
	}
	if e, ok := bench.PairedRatio(rng, of(qlive, took), of(beside, took)); ok {
		row.Bare = &e
	}
	return row
}

// Write writes the report in one of the formats of [bench.Formats]. Only json has every single move in it.
func (r Report) Write(w io.Writer, format string) error {
	if format == "json" {
		return bench.WriteJSON(w, r)
	}
	about := append(r.Machine.Lines(), fmt.Sprintf("%d MiB a move, pages of 4 KiB and 2 MiB, %d workers", r.Bytes>>20, workers()),
		fmt.Sprintf("%s, %d s, seed %d", r.Began.Format("2006-01-02 15:04 MST"), int(r.Took.Seconds()), r.Seed))
	return bench.WriteTables(w, format, about, r.table())
}

func (r Report) table() [][]string {
	table := [][]string{{"from → to", "n", "qlive ms", "p95", "max", "GiB/s", "memcpy ms", "p95", "max", "freeing ms", "held MiB", "to memcpy and freeing", "95 %", "to memcpy", "95 %"}}
	ms := func(v float64) string { return fmt.Sprintf("%.0f", v) }
	for _, row := range r.Rows {
		line := []string{
			row.String(), fmt.Sprint(row.Count), ms(row.Qlive.P50), ms(row.Qlive.P95), ms(row.Qlive.Max),
			fmt.Sprintf("%.2f", float64(r.Bytes)/(1<<30)/(row.Qlive.P50/1000)), ms(row.Memcpy.P50), ms(row.Memcpy.P95), ms(row.Memcpy.Max),
			ms(row.Free.P50), fmt.Sprintf("%.0f", row.Held.Max/(1<<20)),
		}
		for _, e := range []*bench.Estimate{row.Ratio, row.Bare} {
			if e == nil {
				line = append(line, "", "")
				continue
			}
			line = append(line, fmt.Sprintf("%.2f", e.Value), fmt.Sprintf("%.2f … %.2f", e.Low, e.High))
		}
		table = append(table, line)
	}
	return table
}

package bench

import (
	"time"
)

// Report is what a run has measured.
type Report struct {
	Machine Machine       `json:"machine"`
	Seed    uint64        `json:"seed"`
	Began   time.Time     `json:"began"`
	Took    time.Duration `json:"took_ns"`
	Rows    []Row         `json:"rows"`
	Growth  []Growth      `json:"growth"`
}

// Row is one contender in one scene, in one direction. Times are in µs, memory in bytes.
type Row struct {
	Group     string    `json:"group"`
	Contender Contender `json:"contender"`
	Shape     Shape     `json:"shape"`
	From      string    `json:"from"` // versions of QEMU
	To        string    `json:"to"`
	Count     int       `json:"count"`

	Pause     Quantiles `json:"pause_us"`
	QEMUPause Quantiles `json:"qemu_pause_us"`
	HostGap   Quantiles `json:"host_gap_us"`
	GuestGap  Quantiles `json:"guest_gap_us"`
	Total     Quantiles `json:"total_us"`
	Held      Quantiles `json:"held_bytes"`
	Target    Quantiles `json:"target_bytes"`
	CPU       Quantiles `json:"cpu_us"`

	Laps map[string]float64 `json:"laps_us"` // medians of the pieces of the pause

	Beside  Contender `json:"beside,omitempty"` // what it was alternated with
	Ratio   *Estimate `json:"ratio,omitempty"`  // median of the ratios of the pauses, handoff by handoff
	Samples []Sample  `json:"samples"`          // in the order in which they were taken
}

// Growth is how much a contender's median pause grows with the memory that the guest has touched.
type Growth struct {
	Contender Contender `json:"contender"`
	PerGiB    Estimate  `json:"ms_per_gib"`
}

func newRow(s scene, c Contender, from, to string, samples []Sample) Row {
	of := func(field func(Sample) int64) Quantiles {
		v := make([]float64, len(samples))
		for i, s := range samples {
			v[i] = float64(field(s))
		}
		return quantilesOf(v)
	}
	laps := make(map[string]float64)
	for _, name := range lapNames() {
		var v []float64
		for _, s := range samples {
			if us, ok := s.LapsUS[name]; ok {
				v = append(v, float64(us))
			}
		}
		if len(v) > 0 {
			laps[name] = median(v)
		}
	}
	return Row{
		Laps: laps, Group: s.group, Contender: c, Shape: s.shape, From: from, To: to, Count: len(samples), Samples: samples,
		Pause:     of(func(s Sample) int64 { return s.PauseUS }),
		QEMUPause: of(func(s Sample) int64 { return s.QEMUPauseUS }),
		HostGap:   of(func(s Sample) int64 { return s.HostGapUS }),
		GuestGap:  of(func(s Sample) int64 { return s.GuestGapUS }),
		Total:     of(func(s Sample) int64 { return s.TotalUS }),
		Held:      of(func(s Sample) int64 { return s.HeldBytes }),
		Target:    of(func(s Sample) int64 { return s.TargetBytes }),
		CPU:       of(func(s Sample) int64 { return s.CPUUS }),
	}
}

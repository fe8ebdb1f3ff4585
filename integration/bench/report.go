package bench

import (
	"math/rand/v2"
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
		return QuantilesOf(v)
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

// rows describes what was taken, in the order of the scene.
func (b *bench) rows(s scene, taken map[leg][]Sample) []Row {
	var rows []Row
	at := s.from
	for _, to := range s.trip() {
		for _, u := range s.units {
			for _, c := range u {
				samples := taken[leg{c, at, to}]
				if len(samples) == 0 {
					continue
				}
				row := newRow(s, c, at, to, samples)
				if reference := u[0]; c != reference {
					beside := taken[leg{reference, at, to}]
					if e, ok := PairedRatio(b.rng, pauses(samples), pauses(beside)); ok {
						row.Beside, row.Ratio = reference, &e
					}
				}
				rows = append(rows, row)
			}
		}
		at = to
	}
	return rows
}

func pauses(samples []Sample) []float64 {
	v := make([]float64, len(samples))
	for i, s := range samples {
		v[i] = float64(s.PauseUS)
	}
	return v
}

// growths are what each contender's pause grows by with the memory that the guest has touched.
func growths(rng *rand.Rand, rows []Row) []Growth {
	var order []Contender
	bySize := make(map[Contender][]series)
	for _, r := range rows {
		if r.Group != RAM {
			continue
		}
		if bySize[r.Contender] == nil {
			order = append(order, r.Contender)
		}
		y := pauses(r.Samples)
		for i := range y {
			y[i] /= 1000
		}
		bySize[r.Contender] = append(bySize[r.Contender], series{float64(r.Shape.TouchedMiB) / 1024, y})
	}
	var list []Growth
	for _, c := range order {
		if e, ok := growth(rng, bySize[c]); ok {
			list = append(list, Growth{c, e})
		}
	}
	return list
}

package bench

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// resamples is how often a bootstrap draws.
const resamples = 2000

// Quantiles describe a set of numbers. All are 0 if it is empty.
type Quantiles struct {
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	Max  float64 `json:"max"`
	Mean float64 `json:"mean"`
}

// QuantilesOf describes the values.
func QuantilesOf(values []float64) Quantiles {
	if len(values) == 0 {
		return Quantiles{}
	}
	sorted := slices.Sorted(slices.Values(values))
	sum := 0.0
	for _, v := range sorted {
		sum += v
	}
	return Quantiles{
		P50: quantile(sorted, 0.5), P95: quantile(sorted, 0.95), P99: quantile(sorted, 0.99),
		Max: sorted[len(sorted)-1], Mean: sum / float64(len(sorted)),
	}
}

// quantile lies between the two nearest of the sorted values, in proportion (type 7 of Hyndman and Fan).
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(math.Floor(at))
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

func median(values []float64) float64 { return QuantilesOf(values).P50 }

// Estimate is a number and the interval that holds it with 95 % confidence.
type Estimate struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// bootstrap estimates f of what draw gives: of the whole, and the interval by drawing again and again.
func bootstrap(rng *rand.Rand, whole float64, draw func(*rand.Rand) float64) Estimate {
	values := make([]float64, resamples)
	for i := range values {
		values[i] = draw(rng)
	}
	slices.Sort(values)
	return Estimate{Value: whole, Low: quantile(values, 0.025), High: quantile(values, 0.975)}
}

func resample(rng *rand.Rand, values []float64) []float64 {
	drawn := make([]float64, len(values))
	for i := range drawn {
		drawn[i] = values[rng.IntN(len(values))]
	}
	return drawn
}

// PairedRatio estimates the median of a[i]/b[i]. Pairs without a second half are left out; with none at all there is no ratio.
func PairedRatio(rng *rand.Rand, a, b []float64) (Estimate, bool) {
	var ratios []float64
	for i := range min(len(a), len(b)) {
		if b[i] > 0 {
			ratios = append(ratios, a[i]/b[i])
		}
	}
	if len(ratios) == 0 {
		return Estimate{}, false
	}
	return bootstrap(rng, median(ratios), func(rng *rand.Rand) float64 { return median(resample(rng, ratios)) }), true
}

// series is what was measured at one size.
type series struct {
	x float64
	y []float64
}

// growth estimates how much the median of y grows with each x: the slope of the line with the least squares through the
// medians. It needs two different x.
func growth(rng *rand.Rand, all []series) (Estimate, bool) {
	all = slices.DeleteFunc(slices.Clone(all), func(s series) bool { return len(s.y) == 0 })
	slices.SortFunc(all, func(a, b series) int { return cmp.Compare(a.x, b.x) })
	if len(all) < 2 || all[0].x == all[len(all)-1].x {
		return Estimate{}, false
	}
	of := func(value func([]float64) float64) float64 {
		var xs, ys []float64
		for _, s := range all {
			xs, ys = append(xs, s.x), append(ys, value(s.y))
		}
		return slope(xs, ys)
	}
	return bootstrap(rng, of(median), func(rng *rand.Rand) float64 {
		return of(func(y []float64) float64 { return median(resample(rng, y)) })
	}), true
}

func slope(xs, ys []float64) float64 {
	n := float64(len(xs))
	var mx, my, xy, xx float64
	for i := range xs {
		mx, my = mx+xs[i]/n, my+ys[i]/n
	}
	for i := range xs {
		xy += (xs[i] - mx) * (ys[i] - my)
		xx += (xs[i] - mx) * (xs[i] - mx)
	}
	return xy / xx
}

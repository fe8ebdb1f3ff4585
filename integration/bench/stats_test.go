package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(1, math.Abs(a), math.Abs(b)) }

func fixed() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func TestQuantiles(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values []float64
		want   Quantiles
	}{
		{"none", nil, Quantiles{}},
		{"one", []float64{7}, Quantiles{7, 7, 7, 7, 7}},
		{"two", []float64{3, 1}, Quantiles{2, 2.9, 2.98, 3, 2}},
		{"odd, not sorted", []float64{5, 1, 9}, Quantiles{5, 8.6, 8.92, 9, 5}},
		{"hundred and one", count(101), Quantiles{50, 95, 99, 100, 50}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := slices.Clone(tt.values)
			got := QuantilesOf(tt.values)
			for i, pair := range [][2]float64{{got.P50, tt.want.P50}, {got.P95, tt.want.P95}, {got.P99, tt.want.P99}, {got.Max, tt.want.Max}, {got.Mean, tt.want.Mean}} {
				if !near(pair[0], pair[1]) {
					t.Errorf("member %d: got %v, want %v", i, pair[0], pair[1])
				}
			}
			if !slices.Equal(before, tt.values) {
				t.Error("the values were moved")
			}
		})
	}
}

// count is 0, 1, …, n-1, from the end.
func count(n int) []float64 {
	v := make([]float64, n)
	for i := range v {
		v[i] = float64(n - 1 - i)
	}
	return v
}

func TestQuantilesLieInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SliceOfN(rapid.Float64Range(-1e9, 1e9), 1, 100).Draw(t, "values")
		q := QuantilesOf(v)
		if low := slices.Min(v); !(low <= q.P50 && q.P50 <= q.P95 && q.P95 <= q.P99 && q.P99 <= q.Max && q.Max == slices.Max(v)) {
			t.Fatalf("least %v: %+v", low, q)
		}
	})
}

func TestPairedRatio(t *testing.T) {
	// The machine gets ten times slower half-way: the ratio does not.
	var a, b []float64
	rng := fixed()
	for i := range 60 {
		slow := 1.0
		if i >= 30 {
			slow = 10
		}
		b = append(b, slow*(3+rng.Float64()))
		a = append(a, slow*1.2*(3+rng.Float64()))
	}
	e, ok := PairedRatio(fixed(), a, b)
	if !ok || e.Value < 1.05 || e.Value > 1.35 || e.Low > e.Value || e.High < e.Value || e.High-e.Low > 0.4 {
		t.Errorf("got %+v, %v", e, ok)
	}
	again, _ := PairedRatio(fixed(), a, b)
	if again != e {
		t.Errorf("the same seed gives %+v, then %+v", e, again)
	}
	for _, tt := range []struct {
		name string
		a, b []float64
		want float64
		ok   bool
	}{
		{"nothing", nil, nil, 0, false},
		{"no second half", []float64{1, 2}, nil, 0, false},
		{"one half is zero", []float64{1, 2}, []float64{0, 1}, 2, true},
		{"last has no partner", []float64{2, 4, 100}, []float64{1, 2}, 2, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, ok := PairedRatio(fixed(), tt.a, tt.b)
			if ok != tt.ok || e.Value != tt.want {
				t.Errorf("got %+v, %v", e, ok)
			}
		})
	}
}

func TestPairedRatioHoldsItsMedian(t *testing.T) {
	positive := rapid.Float64Range(0.1, 1e6)
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "pairs")
		a := rapid.SliceOfN(positive, n, n).Draw(t, "a")
		b := rapid.SliceOfN(positive, n, n).Draw(t, "b")
		e, ok := PairedRatio(fixed(), a, b)
		if !ok || e.Low > e.Value || e.Value > e.High {
			t.Fatalf("got %+v, %v", e, ok)
		}
	})
}

func TestGrowth(t *testing.T) {
	exact := []series{{8, []float64{4.6}}, {0.25, []float64{3.05}}, {1, []float64{3.2}}, {4, []float64{3.8}}}
	e, ok := growth(fixed(), exact)
	if !ok || !near(e.Value, 0.2) || !near(e.Low, 0.2) || !near(e.High, 0.2) {
		t.Errorf("line of 3 + 0.2 x: got %+v, %v", e, ok)
	}
	noisy := []series{{1, nil}, {2, nil}, {3, nil}}
	rng := fixed()
	for i := range noisy {
		for range 50 {
			noisy[i].y = append(noisy[i].y, 5+0.5*noisy[i].x+rng.NormFloat64()/10)
		}
	}
	if e, ok := growth(fixed(), noisy); !ok || e.Value < 0.4 || e.Value > 0.6 || e.Low > 0.5 || e.High < 0.5 {
		t.Errorf("noisy line of 5 + 0.5 x: got %+v, %v", e, ok)
	}
	for _, tt := range []struct {
		name string
		all  []series
	}{
		{"nothing", nil},
		{"one size", []series{{1, []float64{1}}}},
		{"one size twice", []series{{1, []float64{1}}, {1, []float64{2}}}},
		{"second without values", []series{{1, []float64{1}}, {2, nil}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if e, ok := growth(fixed(), tt.all); ok {
				t.Errorf("got %+v", e)
			}
		})
	}
}

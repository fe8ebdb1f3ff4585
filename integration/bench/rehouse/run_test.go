package rehouse

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A short run measures every pair, holds no more than it may, and can be printed.
func TestRun(t *testing.T) {
	r, err := Run(t.Context(), Options{Count: 1, Bytes: 32 << 20, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != len(Pairs()) {
		t.Fatalf("%d rows", len(r.Rows))
	}
	for _, row := range r.Rows {
		if row.Count != 1 || row.Ratio == nil || row.Qlive.P50 <= 0 || row.Memcpy.P50 <= 0 {
			t.Errorf("%+v", row)
		}
		if row.Held.Max > float64((workers()+1)*4<<20) {
			t.Errorf("%s: %.0f bytes are held twice", row.Pair, row.Held.Max)
		}
	}
	var out bytes.Buffer
	if err := r.Write(&out, "markdown"); err != nil || !strings.Contains(out.String(), "memfd → hugetlb") {
		t.Errorf("%v: %s", err, out.String())
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Count: -1}, {Bytes: 1}, {Bytes: 17 << 20}} {
		if _, err := Run(t.Context(), o); vmstate.KindOf(err) != vmstate.Invalid {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

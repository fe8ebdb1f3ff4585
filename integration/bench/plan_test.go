package bench

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"qlive/vmstate"
)

// Each round has every contender once, those of a unit next to each other.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var units []unit
		var all []Contender
		for u := range rapid.IntRange(1, 4).Draw(t, "units") {
			var one unit
			for c := range rapid.IntRange(1, 3).Draw(t, "contenders") {
				one = append(one, Contender(string(rune('a'+u))+string(rune('0'+c))))
			}
			units, all = append(units, one), append(all, one...)
		}
		round := order(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)), units)
		if got := slices.Sorted(slices.Values(round)); !slices.Equal(got, slices.Sorted(slices.Values(all))) {
			t.Fatalf("round %v of %v", round, all)
		}
		changes := 0
		for i := 1; i < len(round); i++ {
			if round[i][0] != round[i-1][0] {
				changes++
			}
		}
		if changes != len(units)-1 {
			t.Fatalf("round %v: units are torn apart", round)
		}
	})
}

// Who is first is drawn anew for each round, so that neither of a pair always has the warmer machine.
func TestOrderIsDrawn(t *testing.T) {
	rng, first := fixed(), 0
	for range 1000 {
		if order(rng, []unit{{"a", "b"}})[0] == "a" {
			first++
		}
	}
	if first < 400 || first > 600 {
		t.Errorf("a is first in %d of 1000 rounds", first)
	}
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name   string
		groups []string
		quick  bool
		scenes int
		want   string // a scene that must be there
		not    string // words that no scene may have
	}{
		{"everything", nil, false, 17, "ram: 8192 MiB", ""},
		{"everything, quick", nil, true, 15, "peers: 1024 MiB", "8192"},
		{"ram", []string{RAM}, false, 4, "ram: 4096 MiB", "peers"},
		{"ways alone at one size", []string{Ways}, false, 1, "ram: 256 MiB", "1024"},
		{"pages", []string{Pages}, false, 2, "pages of 2 MiB", ""},
		{"vcpus", []string{VCPUs}, false, 2, "2 vCPU", ""},
		{"devices", []string{Devices}, false, 2, "4 devices", ""},
		{"versions", []string{Versions}, false, 3, "QEMU 7.2.22 to 11.1.3", ""},
		{"readers", []string{Readers}, false, 1, "readers: 256 MiB", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			scenes, err := plan(tt.groups, tt.quick)
			if err != nil || len(scenes) != tt.scenes {
				t.Fatalf("%d scenes, %v", len(scenes), err)
			}
			found := false
			for _, s := range scenes {
				found = found || strings.Contains(s.String(), tt.want)
				if tt.not != "" && strings.Contains(s.String(), tt.not) {
					t.Errorf("scene %s", s)
				}
				checkScene(t, s)
			}
			if !found {
				t.Errorf("no scene %q in %v", tt.want, scenes)
			}
		})
	}
	if _, err := plan([]string{"ram", "rom"}, false); vmstate.KindOf(err) != vmstate.Invalid || !strings.Contains(err.Error(), `"rom"`) {
		t.Errorf("unknown group: %v", err)
	}
}

// checkScene: every unit is led by a floor, or by readers of an ordinary file, and everybody in it can be made to hand over and comes back to where it began.
func checkScene(t *testing.T, s scene) {
	t.Helper()
	for _, u := range s.units {
		if !strings.HasPrefix(string(u[0]), "floor/") && (s.group != Readers || u[0] != BesideTmpfs) {
			t.Errorf("%s: compared with %s", s, u[0])
		}
		for _, c := range u {
			if c.isQlive() {
				if !slices.Contains(vmstate.Ways(), c.way()) {
					t.Errorf("%s: qlive has no way %q", s, c.way())
				}
			} else if _, err := bareWay(c); err != nil {
				t.Errorf("%s: %v", s, err)
			}
		}
	}
	if trip := s.trip(); trip[len(trip)-1] != s.from || trip[0] != s.to {
		t.Errorf("%s: trip %v", s, trip)
	}
}

// The handoffs of a round that are compared are those of the same round and direction.
func TestRowsPairWithinRounds(t *testing.T) {
	floor, qlive := Floor(vmstate.WayDeviceState), Qlive(vmstate.WayDeviceState)
	s := scene{group: Versions, shape: base(), from: "1", to: "2", units: []unit{{floor, qlive}}}
	taken := make(map[leg][]Sample)
	for i := range 20 {
		us := int64(1000 << i) // each round is twice as slow as the one before
		taken[leg{floor, "1", "2"}] = append(taken[leg{floor, "1", "2"}], Sample{PauseUS: us})
		taken[leg{qlive, "1", "2"}] = append(taken[leg{qlive, "1", "2"}], Sample{PauseUS: us * 11 / 10})
		taken[leg{floor, "2", "1"}] = append(taken[leg{floor, "2", "1"}], Sample{PauseUS: us})
		taken[leg{qlive, "2", "1"}] = append(taken[leg{qlive, "2", "1"}], Sample{PauseUS: us * 2})
	}
	rows := (&bench{rng: fixed()}).rows(s, taken)
	if len(rows) != 4 {
		t.Fatalf("%d rows", len(rows))
	}
	for i, want := range []struct {
		contender Contender
		from      string
		ratio     float64
	}{{floor, "1", 0}, {qlive, "1", 1.1}, {floor, "2", 0}, {qlive, "2", 2}} {
		r := rows[i]
		if r.Contender != want.contender || r.From != want.from || r.Count != 20 {
			t.Errorf("row %d: %s from %s, %d", i, r.Contender, r.From, r.Count)
		}
		switch {
		case want.ratio == 0 && r.Ratio != nil:
			t.Errorf("row %d is compared with itself", i)
		case want.ratio != 0 && (r.Ratio == nil || r.Beside != floor || !near(r.Ratio.Value, want.ratio) || !near(r.Ratio.Low, want.ratio)):
			t.Errorf("row %d: ratio %+v beside %q, want %v", i, r.Ratio, r.Beside, want.ratio)
		}
	}
}

func TestGrowthsByContender(t *testing.T) {
	row := func(c Contender, group string, mib int, us int64) Row {
		return Row{Group: group, Contender: c, Shape: Shape{TouchedMiB: mib}, Samples: []Sample{{PauseUS: us}, {PauseUS: us}}}
	}
	list := growths(fixed(), []Row{
		row("a", RAM, 1024, 3000), row("b", RAM, 1024, 5000), row("a", RAM, 3072, 3400), row("b", RAM, 3072, 5000),
		row("a", Peers, 4096, 900000), row("c", RAM, 1024, 1),
	})
	if len(list) != 2 || list[0].Contender != "a" || !near(list[0].PerGiB.Value, 0.2) || list[1].Contender != "b" || !near(list[1].PerGiB.Value, 0) {
		t.Errorf("got %+v", list)
	}
}

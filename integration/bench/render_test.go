package bench

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qlive/vmstate"
)

var update = flag.Bool("update", false, "write golden files anew")

func example() Report {
	s := scene{group: RAM, shape: base(), from: "10.0.2", to: "10.0.2", units: []unit{pair(vmstate.WayDeviceState)}}
	v := scene{group: Versions, shape: base(), from: "7.2.22", to: "11.1.3", units: s.units}
	sample := func(us int64) Sample {
		return Sample{PauseUS: us, QEMUPauseUS: us - 300, HostGapUS: 20 * us, GuestGapUS: 18 * us, TotalUS: 150000, HeldBytes: 35 << 20, TargetBytes: 32 << 20, CPUUS: 90000,
			LapsUS: map[string]int64{"stop": 100, "save": 900, "load": us - 1100, "cont": 100}}
	}
	taken := func(from, to string) map[leg][]Sample {
		m := make(map[leg][]Sample)
		for i := range int64(10) {
			m[leg{s.units[0][0], from, to}] = append(m[leg{s.units[0][0], from, to}], sample(2500+i*100))
			m[leg{s.units[0][1], from, to}] = append(m[leg{s.units[0][1], from, to}], sample(2700+i*100))
		}
		return m
	}
	b := &bench{rng: fixed()}
	return Report{
		Machine: Machine{
			CPU: "AMD EPYC", Cores: 2, MemoryBytes: 24 << 30, Kernel: "6.18.44", Virtual: true, Accelerator: "tcg",
			QEMU: map[string]string{"7.2.22": "QEMU emulator version 7.2.22 (Debian)"}, LoadBefore: "0.10 0.20 0.30", LoadAfter: "1.00 1.00 1.00",
		},
		Seed: 42, Began: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Took: 90 * time.Second,
		Rows:   append(b.rows(s, taken("10.0.2", "10.0.2")), b.rows(v, taken("7.2.22", "11.1.3"))...),
		Growth: []Growth{{Floor(vmstate.WayDeviceState), Estimate{0.05, 0.01, 0.09}}},
	}
}

func TestWrite(t *testing.T) {
	for _, format := range Formats() {
		t.Run(format, func(t *testing.T) {
			var got bytes.Buffer
			if err := example().Write(&got, format); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", format+".golden")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		})
	}
	if err := (Report{}).Write(new(bytes.Buffer), "xml"); vmstate.KindOf(err) != vmstate.Invalid {
		t.Errorf("xml: %v", err)
	}
}

func TestJSONHoldsEverything(t *testing.T) {
	var text bytes.Buffer
	want := example()
	if err := want.Write(&text, "json"); err != nil {
		t.Fatal(err)
	}
	var got Report
	if err := json.Unmarshal(text.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

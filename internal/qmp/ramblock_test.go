package qmp_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"qlive/internal/qmp"
)

// The samples come from the binaries of these versions, with a shared file as RAM, VGA and a virtio network card.
func TestParseRAMBlocksOfRealBinaries(t *testing.T) {
	for _, version := range []string{"7.2.22", "10.0.2", "10.0.13", "11.1.3"} {
		t.Run(version, func(t *testing.T) {
			raw, err := os.ReadFile(filepath.Join("testdata", "ramblock-"+version+".txt"))
			if err != nil {
				t.Fatal(err)
			}
			blocks, err := qmp.ParseRAMBlocks(string(raw))
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(blocks, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "ramblock-"+version+".json", append(got, '\n'))
		})
	}
}

const (
	head     = "              Block Name    PSize              Offset               Used              Total"
	headHost = head + "                HVA  RO"
)

func TestParseRAMBlocks(t *testing.T) {
	tests := map[string]struct {
		text string
		want []qmp.RAMBlock
		err  string
	}{
		"no block": {text: head + "\n"},
		"no rows":  {text: headHost},
		"page sizes and odd names": {
			text: head + "\r\n" +
				"  a b  c    2 MiB  0x0 0x200000 0x400000\r\n" +
				"       /objects/x    1 GiB  0x40000000 0x40000000 0x40000000\r\n\r\n",
			want: []qmp.RAMBlock{
				{Name: "a b  c", PageSize: 2 << 20, Used: 2 << 20, Total: 4 << 20},
				{Name: "/objects/x", PageSize: 1 << 30, Offset: 1 << 30, Used: 1 << 30, Total: 1 << 30},
			},
		},
		"host address": {
			text: headHost + "\n  m    4 KiB  0x1000 0x1 0x2 0xffffffffffffffff  ro\n",
			want: []qmp.RAMBlock{{Name: "m", PageSize: 4096, Offset: 4096, Used: 1, Total: 2, Host: true,
				HVA: 1<<64 - 1, ReadOnly: true}},
		},
		"memory that nothing uses": {
			text: head + "\n      4 KiB  0x0 0x1000 0x1000\n  m    4 KiB  0x1000 0x1000 0x1000\n",
			want: []qmp.RAMBlock{{Name: "m", PageSize: 4096, Offset: 4096, Used: 4096, Total: 4096}},
		},
		"empty":               {text: "", err: "unknown columns"},
		"another column":      {text: head + " FLAGS\n", err: "unknown columns"},
		"a row cut short":     {text: head + "\n  m 4 KiB 0x0 0x0\n", err: "no hexadecimal number"},
		"decimal":             {text: head + "\n  m 4 KiB 0x0 0x0 12\n", err: `no hexadecimal number "12"`},
		"overflow":            {text: head + "\n  m 4 KiB 0x0 0x0 0x10000000000000000\n", err: "no hexadecimal number"},
		"page size of zero":   {text: head + "\n  m 0 KiB 0x0 0x0 0x0\n", err: "no page size"},
		"unknown page size":   {text: head + "\n  m 4 kB 0x0 0x0 0x0\n", err: `no page size "4 kB"`},
		"neither ro nor rw":   {text: headHost + "\n  m 4 KiB 0x0 0x0 0x0 0x0 rx\n", err: "no ro or rw"},
		"row without columns": {text: headHost + "\n  m\n", err: "no ro or rw"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := qmp.ParseRAMBlocks(tt.text)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, %v; want an error with %q", got, err, tt.err)
				}
				return
			}
			if err != nil || len(got) != len(tt.want) {
				t.Fatalf("got %+v, %v", got, err)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("row %d: got %+v, want %+v", i, got[i], tt.want[i])
				}
			}
		})
	}
}

func FuzzParseRAMBlocks(f *testing.F) {
	samples, err := filepath.Glob("testdata/ramblock-*.txt")
	if err != nil || len(samples) == 0 {
		f.Fatal("no samples", err)
	}
	for _, path := range samples {
		raw, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(raw))
	}
	f.Add(headHost + "\n  m 4 KiB 0x0 0x0 0x0 0x0 rw\n")
	f.Add(head + "\n 4 KiB  \n")
	f.Fuzz(func(t *testing.T, text string) {
		blocks, err := qmp.ParseRAMBlocks(text)
		if err != nil {
			return
		}
		for _, b := range blocks {
			if b.Name == "" || b.PageSize == 0 || !strings.Contains(text, b.Name) {
				t.Errorf("%+v from %q", b, text)
			}
		}
	})
}

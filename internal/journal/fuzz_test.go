package journal

import (
	"errors"
	"reflect"
	"testing"

	"qlive/vmstate"
)

// Whatever a file holds, reading it ends, and what it gives is what the file up to the good end gives.
func FuzzDecode(f *testing.F) {
	whole := readFile(f, write(f, step{"mig-1", "planned", ""}, step{"mig-1", "failed", "a\n\"b\" <c>"}, nil, 1e300))
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add(whole[:len(whole)-30])
	f.Add(append(whole[:len(whole)-1:len(whole)-1], whole...))
	f.Add([]byte{})
	f.Add([]byte("\n"))
	f.Add([]byte(`{"seq":0,"at":"2026-01-01T00:00:00Z","data":{"format":"qlive-journal","level":9},"crc32c":"00000000"}`))
	f.Add(make([]byte, 5000))
	f.Fuzz(func(t *testing.T, file []byte) {
		c, err := decode("journal", file)
		if err != nil && !errors.Is(err, ErrTorn) {
			if kind := vmstate.KindOf(err); kind != vmstate.Host && kind != vmstate.Unsupported {
				t.Fatalf("error of kind %s: %v", kind, err)
			}
			if c.records != nil {
				t.Fatal("records beside an error")
			}
			return
		}
		if err == nil && c.end != len(file) {
			t.Fatalf("read %d of %d bytes and says nothing", c.end, len(file))
		}
		for i, r := range c.records {
			if r.Seq != uint64(i)+1 {
				t.Fatalf("record %d has number %d", i+1, r.Seq)
			}
		}
		again, err := decode("journal", file[:c.end])
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("the good part reads as %v, %v", again, err)
		}
	})
}

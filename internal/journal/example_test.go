package journal

import (
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the example into the documentation")

const page = "../../docs/journal.md"

// The documentation's example is a journal, byte for byte what this package writes.
func TestDocumentedExample(t *testing.T) {
	start := time.Date(2026, 11, 22, 10, 15, 0, 123456789, time.UTC)
	var want []byte
	for i, line := range []struct {
		after time.Duration
		data  string
	}{
		{0, encode(t, header{formatName, formatLevel})},
		{41 * time.Microsecond, `{"migration":"mig-1","vm":"vm1","phase":"planned","source":{"pid":812,"start_time":90211,"dir":"/run/qlive/vm1/0"}}`},
		{2191 * time.Millisecond, `{"migration":"mig-1","vm":"vm1","phase":"switching","source":{"pid":812,"start_time":90211,"dir":"/run/qlive/vm1/0"},"target":{"pid":977,"start_time":90430,"dir":"/run/qlive/vm1/1"},"run_state":"running","way":"device_state"}`},
	} {
		want = appendLine(want, uint64(i), start.Add(line.after), []byte(line.data))
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), "```json\n")
	example, after, ends := strings.Cut(rest, "```\n")
	if !found || !ends {
		t.Fatalf("%s has no example", page)
	}
	if *update {
		if err := os.WriteFile(page, []byte(before+"```json\n"+string(want)+"```\n"+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if example != string(want) {
		t.Errorf("the example in %s is\n%s\nwant (run with -update)\n%s", page, example, want)
	}
	if c, err := decode(page, []byte(example)); err != nil || len(c.records) != 2 {
		t.Errorf("the example reads as %d records, %v", len(c.records), err)
	}
}

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

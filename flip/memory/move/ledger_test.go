package move

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qlive/vmstate"
)

func somePlan() Plan {
	return Plan{Version: version, Migration: "mig-1", ChunkBytes: 8192, Regions: []Region{
		{Name: "pc.ram", SizeBytes: 20480, Old: File{1, 2}, New: File{3, 4}}, {Name: "more", SizeBytes: 8192, Old: File{1, 5}, New: File{3, 6}},
	}}
}

func TestLedger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "moves")
	if _, err := OpenLedger(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%v", err)
	}
	l, err := CreateLedger(path, somePlan())
	if err != nil {
		t.Fatal(err)
	}
	want := []chunk{{0, 0, 8192}, {0, 8192, 16384}, {0, 16384, 20480}, {1, 0, 8192}}
	if got := l.plan.chunks(); !slices.Equal(got, want) {
		t.Fatalf("chunks %v, want %v", got, want)
	}
	if l.Away() || l.Moved() {
		t.Error("nothing has been moved")
	}
	for _, i := range []int{2, 0, 2} {
		if err := l.put(i, InNew); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.put(0, InOld), l.Close()); err != nil {
		t.Fatal(err)
	}
	if l, err = OpenLedger(path); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if diff := cmp.Diff(somePlan(), l.Plan()); diff != "" || string(l.sides) != "oono" || !l.Away() || l.Moved() {
		t.Errorf("%s %s", l.sides, diff)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const file = `{"version":1,"migration":"mig-1","chunk_bytes":8192,"regions":[` +
		`{"name":"pc.ram","size_bytes":20480,"old":{"dev":1,"inode":2},"new":{"dev":3,"inode":4}},` +
		`{"name":"more","size_bytes":8192,"old":{"dev":1,"inode":5},"new":{"dev":3,"inode":6}}]}` + "\noono\n"
	if string(text) != file {
		t.Errorf("%s", cmp.Diff(file, string(text)))
	}
	if err := errors.Join(RemoveLedger(path), RemoveLedger(path)); err != nil {
		t.Error(err)
	}
}

// What is not a ledger is never taken for one in which nothing has been moved.
func TestLedgerDamaged(t *testing.T) {
	const head = `{"version":1,"migration":"m","chunk_bytes":4096,"regions":[{"name":"a","size_bytes":8192,"old":{},"new":{}}]}`
	if _, sides, err := parse([]byte(head + "\non\n")); err != nil || string(sides) != "on" {
		t.Fatalf("%s, %v", sides, err)
	}
	for name, text := range map[string]string{
		"empty": "", "no chunks": head, "cut short": head + "\no", "no end": head + "\non", "too few": head + "\no\n", "too many": head + "\nooo\n",
		"another letter": head + "\nox\n", "a third line": head + "\noo\n\n", "no JSON": "{\noo\n",
		"another version": `{"version":2,"chunk_bytes":4096,"regions":[{"size_bytes":8192}]}` + "\noo\n",
		"no chunk size":   `{"version":1,"regions":[{"size_bytes":8192}]}` + "\noo\n",
		"no pages":        `{"version":1,"chunk_bytes":5000,"regions":[{"size_bytes":8192}]}` + "\noo\n",
		"no regions":      `{"version":1,"chunk_bytes":4096}` + "\n\n",
		"an empty region": `{"version":1,"chunk_bytes":4096,"regions":[{"size_bytes":0}]}` + "\n\n",
		"endless":         `{"version":1,"chunk_bytes":4096,"regions":[{"size_bytes":18446744073709551615}]}` + "\noo\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "moves")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenLedger(path); vmstate.KindOf(err) != vmstate.Host {
				t.Errorf("%v", err)
			}
		})
	}
}

func FuzzLedger(f *testing.F) {
	const head = `{"version":1,"migration":"m","chunk_bytes":4096,"regions":[{"name":"a","size_bytes":8192,"old":{},"new":{}}]}`
	for _, seed := range []string{"", head, head + "\non\n", head + "\nox\n", "{}\n\n", head + "\noo\n\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, sides, err := parse(text)
		if err != nil {
			return
		}
		if len(sides) != len(p.chunks()) || p.check() != nil {
			t.Errorf("%d sides of %d chunks, %v", len(sides), len(p.chunks()), p.check())
		}
	})
}

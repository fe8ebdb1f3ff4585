package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// history is a journal in the hands of a test that appends, opens anew, cuts and lets calls fail, and what must be
// found in it.
type history struct {
	path string
	j    *Journal
	want []string // the data of the accepted records
	// maybe is a record whose writing failed so badly that it could not be taken out: it may be found or not.
	maybe string
}

func (h *history) open(t *rapid.T) {
	j, err := Open(h.path)
	if err != nil {
		t.Fatal(err)
	}
	h.j = j
}

// check reads the journal and compares.
func (h *history) check(t *rapid.T) {
	records, err := Read(h.path)
	if err != nil && !errors.Is(err, ErrTorn) {
		t.Fatal(err)
	}
	var got []string
	for i, r := range records {
		if r.Seq != uint64(i)+1 {
			t.Fatalf("record %d has number %d", i+1, r.Seq)
		}
		got = append(got, string(r.Data))
	}
	if slices.Equal(got, append(slices.Clone(h.want), h.maybe)) && h.maybe != "" {
		h.want, h.maybe = got, ""
	}
	if !slices.Equal(got, h.want) {
		t.Fatalf("read %q, want %q", got, h.want)
	}
}

// limping is a file whose next write takes only some bytes, and whose truncation may fail.
type limping struct {
	file
	take    int // bytes of the next write
	stuck   bool
	limping bool
}

var errLimp = errors.New("refused by the test")

func (l *limping) Write(b []byte) (int, error) {
	if !l.limping {
		return l.file.Write(b)
	}
	n, err := l.file.Write(b[:min(l.take, len(b))])
	return n, errors.Join(errLimp, err)
}

func (l *limping) Truncate(size int64) error {
	if l.stuck {
		return errLimp
	}
	return l.file.Truncate(size)
}

func TestHistories(t *testing.T) {
	dir := t.TempDir()
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "\n", `,"crc32c":"00000000"}`, "}\n{"}))
	files := 0
	rapid.Check(t, func(t *rapid.T) {
		files++
		h := &history{path: filepath.Join(dir, fmt.Sprint(files))}
		h.open(t)
		defer func() { h.j.Close(); os.Remove(h.path) }()
		appendOne := func(t *rapid.T, fails bool) {
			s := step{Migration: "mig", Phase: text.Draw(t, "phase"), Detail: text.Draw(t, "detail")}
			line := encoded(t, s)
			err := h.j.Append(s)
			if fails != (err != nil) {
				t.Fatalf("append: %v, and it should fail: %t", err, fails)
			}
			if err == nil {
				h.want = append(h.want, line)
			} else {
				h.maybe = line
			}
		}
		reopen := func(t *rapid.T) {
			if err := h.j.Close(); err != nil {
				t.Fatal(err)
			}
			h.check(t) // while it may be torn
			h.open(t)
			h.maybe = ""
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) { appendOne(t, false) },
			"reopen": reopen,
			"a write takes a part": func(t *rapid.T) {
				real := h.j.file
				h.j.file = &limping{file: real, limping: true, take: rapid.IntRange(0, 400).Draw(t, "bytes")}
				appendOne(t, true)
				h.maybe = "" // it must have been taken out
				h.j.file = real
			},
			"a write takes a part for good": func(t *rapid.T) {
				real := h.j.file
				h.j.file = &limping{file: real, limping: true, stuck: true, take: rapid.IntRange(1, 400).Draw(t, "bytes")}
				appendOne(t, true)
				h.j.file = real
				if err := h.j.Append(0); !errors.Is(err, errLimp) {
					t.Fatalf("appended behind half a record: %v", err)
				}
				reopen(t)
			},
			"": h.check,
		})
	})
}

// encoded is v as the journal writes it.
func encoded(t *rapid.T, v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

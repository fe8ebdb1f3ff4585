package demo

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"qlive/integration/env"
	"qlive/integration/guest/beats"
	"qlive/integration/guest/wire"
	"qlive/vmstate"
)

func TestPathThrough(t *testing.T) {
	for _, test := range []struct {
		name        string
		found, want []string
	}{
		{"all", env.Versions(), []string{env.Installed, env.Backport, env.Newest, env.Installed}},
		{"the other 10.0", []string{env.Installed, env.Stable, env.Newest}, []string{env.Installed, env.Stable, env.Newest, env.Installed}},
		{"two", []string{env.Installed, env.Newest}, []string{env.Installed, env.Newest, env.Installed}},
		{"one", []string{env.Installed}, []string{env.Installed, env.Installed, env.Installed}},
		{"none", nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := pathThrough(test.found); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// What is shown is what a shell runs: however a command is wrapped, its words stay.
func TestWrapped(t *testing.T) {
	word := rapid.StringMatching(`-{0,2}[a-z0-9=,/.]{1,30}`)
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(word, 1, 20).Draw(t, "words")
		quoted := strings.Join(rapid.SliceOfN(word, 1, 12).Draw(t, "quoted"), " ")
		most := rapid.IntRange(20, 100).Draw(t, "columns")
		text := wrapped(strings.Join(words, " ")+` "`+quoted+`"`, most)
		out, err := exec.Command("sh", "-c", "printf '%s\\n' "+text).Output()
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		got := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
		last := len(got) - 1
		if !slices.Equal(got[:last], words) || strings.Join(strings.Fields(got[last]), " ") != quoted {
			t.Fatalf("%q became %q, from:\n%s", append(words, quoted), got, text)
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if one := strings.Fields(strings.TrimSuffix(line, `\`)); len(line) > most && len(one) > 2 {
				t.Fatalf("%d columns of %d: %q", len(line), most, line)
			}
		}
	})
}

// TestScreen draws lines that live: what is left is what was to stay.
func TestScreen(t *testing.T) {
	var out bytes.Buffer
	s := &screen{w: &out, isLive: true, width: 20}
	s.text("stays")
	s.live("one\ntwo")
	s.live("three, which is wider than the screen")
	s.text("stays, too")
	want := "stays\none\ntwo\n\r\x1b[2A\x1b[Jthree, which is wi…\n\r\x1b[1A\x1b[Jstays, too\n"
	if got := out.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	out.Reset()
	s.isLive = false
	s.live("not here")
	if out.Len() > 0 {
		t.Errorf("got %q", out.String())
	}
}

// TestProgress shows one line for each change where lines cannot be drawn anew.
func TestProgress(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	region := func(s vmstate.RegionState) vmstate.Region {
		return vmstate.Region{Name: "ram0", SizeBytes: 64 << 20}.Reset(1).Advance(s)
	}
	step := func(after time.Duration, p vmstate.Phase, s ...vmstate.RegionState) vmstate.Migration {
		m := vmstate.Migration{Phase: p, StartedAt: at, Phases: []vmstate.PhaseTime{{Phase: p, At: at.Add(after), US: 1500}}}
		for _, state := range s {
			m.Regions = append(m.Regions, region(state))
		}
		return m
	}
	var out bytes.Buffer
	p := newProgress(&screen{w: &out, width: columns})
	p.update(step(0, vmstate.Planned, vmstate.Owned))
	p.update(step(0, vmstate.Planned, vmstate.Owned))
	p.update(step(30*time.Millisecond, vmstate.Preparing, vmstate.Owned))
	p.update(step(30*time.Millisecond, vmstate.Preparing, vmstate.Mapped))
	p.update(step(41500*time.Microsecond, vmstate.Completed, vmstate.Released))
	p.end(step(0, vmstate.Switching))
	want := `  planned     +0.0 ms
    ram0         owned     [........................]   0% of 64 MiB
  preparing   +30 ms
    ram0         mapped    [######..................]  25% of 64 MiB
  completed   +42 ms
    ram0         released  [########################] 100% of 64 MiB
  switching 1.5 ms
`
	if got := out.String(); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestFold(t *testing.T) {
	got := fold("  ", "one two three four", 11)
	if want := "  one two\n  three\n  four"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for line := range strings.Lines(fold("  ", strings.Repeat("word ", 50), columns)) {
		if utf8.RuneCountInString(strings.TrimRight(line, "\n")) > columns {
			t.Errorf("too wide: %q", line)
		}
	}
}

// TestVerdict disturbs a guest in every way that the demonstration must not overlook.
func TestVerdict(t *testing.T) {
	const sum = 0xfeed
	for _, test := range []struct {
		name    string
		disturb func(*show)
		want    string
	}{
		{"nothing", func(*show) {}, ""},
		{"a beat lost", func(s *show) { s.said.Lost = 1 }, "1 beats lost"},
		{"a beat repeated", func(s *show) { s.said.Repeated = 2 }, "2 beats repeated"},
		{"memory that the guest finds bad", func(s *show) { s.said.BadMems = 1 }, "1 bad verifications"},
		{"memory that differs", func(s *show) { s.hops[1].sum++ }, "memory differs after the handoff to 11.1.3: checksum 000000000000feee instead of 000000000000feed"},
		{"a guest that came up again", func(s *show) { s.said.Boots = append(s.said.Boots, beats.Boot{}) }, "the guest has booted 2 times"},
		{"no beat at all", func(s *show) { s.said.Beats = 0 }, "cannot find a beat"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &show{
				up:   beats.Boot{Fill: &wire.Fill{Sum: sum}},
				said: beats.Report{Boots: make([]beats.Boot, 1), Beats: 1000},
				hops: []hop{{to: "10.0.2", sum: sum}, {to: "11.1.3", sum: sum}},
			}
			test.disturb(s)
			err := s.verdict()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

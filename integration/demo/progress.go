package demo

import (
	"fmt"
	"strings"
	"time"

	"qlive/vmstate"
)

// progress shows a handoff while it happens: on a terminal its phase and its regions, redrawn; elsewhere one line for each
// change of them.
type progress struct {
	out  *screen
	last map[string]string // what was written of the phase and of each region
}

func newProgress(out *screen) *progress { return &progress{out: out, last: make(map[string]string)} }

// update shows what became of m.
func (p *progress) update(m vmstate.Migration) {
	if p.out.isLive {
		if !m.Phase.Ended() {
			p.out.live("%s", strings.Join(append([]string{phaseLine(m)}, regionLines(m)...), "\n"))
		}
		return
	}
	p.change("", string(m.Phase), phaseLine(m))
	for i, line := range regionLines(m) {
		r := m.Regions[i]
		p.change(r.Name, fmt.Sprint(r.State, r.Progress, r.PopulatedBytes), line)
	}
}

// change writes a line if what it tells has changed.
func (p *progress) change(of, what, line string) {
	if p.last[of] != what {
		p.last[of] = what
		p.out.text("%s", line)
	}
}

// end leaves what is worth keeping.
func (p *progress) end(m vmstate.Migration) {
	var parts []string
	for _, t := range m.Phases {
		if !t.Phase.Ended() {
			parts = append(parts, fmt.Sprintf("%s %s", t.Phase, number(float64(t.US)/1000)))
		}
	}
	for _, line := range strings.Split(fold("  ", strings.Join(parts, ", ")+" ms", columns), "\n") {
		p.out.text("%s", line)
	}
}

// number has one digit behind the point where that tells anything.
func number(x float64) string {
	if x >= 20 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.1f", x)
}

// phaseLine is the phase, and when it began.
func phaseLine(m vmstate.Migration) string {
	var since time.Duration
	if n := len(m.Phases); n > 0 {
		since = m.Phases[n-1].At.Sub(m.StartedAt)
	}
	return fmt.Sprintf("  %-11s +%s ms", m.Phase, number(float64(since)/float64(time.Millisecond)))
}

// regionLines tell how far each region has come.
func regionLines(m vmstate.Migration) []string {
	const cells = 24
	lines := make([]string, len(m.Regions))
	for i, r := range m.Regions {
		full := r.Progress * cells / 100
		lines[i] = fmt.Sprintf("    %-12s %-9s [%s%s] %3d%% of %d MiB", r.Name, r.State,
			strings.Repeat("#", full), strings.Repeat(".", cells-full), r.Progress, r.TotalBytes>>20)
	}
	return lines
}

// fold breaks text at its blanks into lines that begin with indent and are no wider than most.
func fold(indent, text string, most int) string {
	var lines []string
	line := indent
	for _, word := range strings.Fields(text) {
		if len(line) > len(indent) && len(line)+1+len(word) > most {
			lines, line = append(lines, line), indent
		}
		if len(line) > len(indent) {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n")
}

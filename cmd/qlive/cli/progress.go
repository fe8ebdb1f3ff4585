package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"qlive/vmstate"
)

// progress shows a migration on standard error: one line a phase, and on a terminal a last line that lives.
type progress struct {
	a     *app
	live  bool // the last line is rewritten in place
	width int
	shown int  // phases that have a line
	open  bool // a line that lives is on the screen
}

func newProgress(a *app) *progress {
	p := &progress{a: a, width: 80}
	if f, ok := terminal(a.Stderr); ok {
		p.live = a.Getenv("TERM") != "dumb"
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			p.width = w
		}
	}
	return p
}

// terminal is w as a terminal, if it is one.
func terminal(w any) (*os.File, bool) {
	f, ok := w.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// update shows what became of m.
func (p *progress) update(m vmstate.Migration) {
	if p.a.quiet {
		return
	}
	for ; p.shown < len(m.Phases); p.shown++ { // several may have passed since we last heard
		p.line(phaseLine(m, m.Phases[p.shown]), true)
	}
	if p.live && !m.Phase.Ended() {
		p.line(regionLine(m), false)
	}
}

// line writes a line; one that is not kept is written over by the next.
func (p *progress) line(text string, keep bool) {
	w := p.a.Stderr
	if p.open {
		io.WriteString(w, "\r\x1b[K") //nolint:errcheck // progress is not what was asked for
		p.open = false
	}
	text = clean(text)
	if keep {
		fmt.Fprintln(w, text)
		return
	}
	if runes := []rune(text); len(runes) > p.width-1 {
		text = string(runes[:p.width-1])
	}
	io.WriteString(w, text) //nolint:errcheck // as above
	p.open = true
}

// end leaves the screen with whole lines.
func (p *progress) end() {
	if p.open {
		io.WriteString(p.a.Stderr, "\r\x1b[K") //nolint:errcheck // as above
		p.open = false
	}
}

// phaseLine is a phase, and the time at which it began.
func phaseLine(m vmstate.Migration, at vmstate.PhaseTime) string {
	text := fmt.Sprintf("%s  %-11s %10s", m.VM, at.Phase, fmt.Sprintf("+%.1f ms", float64(at.At.Sub(m.StartedAt))/float64(time.Millisecond)))
	switch at.Phase {
	case vmstate.Planned:
		text += fmt.Sprintf("  %s → %s", orDash(m.From.Version), m.To.Binary)
	case vmstate.Committed:
		text += "  pause " + micros(m.PauseUS)
	case vmstate.Completed:
		text += fmt.Sprintf("  runs in %s, pause %s", orDash(m.To.Version), micros(m.PauseUS))
	}
	return text
}

// regionLine is how far each region has come.
func regionLine(m vmstate.Migration) string {
	parts := []string{fmt.Sprintf("  %3d%%", m.Progress)}
	for _, r := range m.Regions {
		parts = append(parts, fmt.Sprintf("%s %s %d%%", r.Name, r.State, r.Progress))
	}
	if c := m.Copy; c != nil {
		parts = append(parts, fmt.Sprintf("round %d, %s left", c.Rounds, size(c.RemainingBytes)))
	}
	return strings.Join(parts, "  ")
}

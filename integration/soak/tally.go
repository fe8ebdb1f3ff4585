package soak

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/kills/stage"
	"qlive/vmstate"
)

// Tally counts what has happened.
type Tally struct {
	Began     time.Time
	Epochs    int
	Attempted int // handoffs asked for
	Ends      map[vmstate.Phase]int
	Unheard   int // the daemon died before it had answered: the id is not known
	Kills     map[stage.Party]int
	Hangs     map[stage.Party]int
	Both      int // QEMU and daemon at once
	Missed    int // strikes that came when there was nobody to strike, or the handoff was over
	AtRest    int // daemons killed between handoffs
	Stops     int // daemons ended by SIGTERM between handoffs
	Guests    int // started
	LostOnly  int // guests whose only runner was killed, each VM failed with its reason
	Lost      int // guests lost in any other way, or found in a wrong state
	Resolved  int
	Verified  int // checks of all memory by the guest
	Beats     uint64
	Slowest   time.Duration // from a daemon's start until it was ready
}

// NewTally counts from now.
func NewTally() *Tally {
	return &Tally{Began: time.Now(), Ends: make(map[vmstate.Phase]int), Kills: make(map[stage.Party]int), Hangs: make(map[stage.Party]int)}
}

// struck counts a blow.
func (t *Tally) struck(b *stage.Blow) {
	if b.And && !b.Missed {
		t.Kills[stage.Daemon]++
		t.Both++
	}
	switch {
	case b.Missed:
		t.Missed++
	case b.Signal == unix.SIGKILL:
		t.Kills[b.Party]++
	default:
		t.Hangs[b.Party]++
		if b.Party == stage.Daemon && !b.GoesOn {
			t.Kills[b.Party]++ // by its supervisor
		}
	}
}

// ended counts how a handoff has ended.
func (t *Tally) ended(out stage.Outcome) {
	if out.Phase == "" {
		t.Unheard++
	} else {
		t.Ends[out.Phase]++
	}
	if out.Lost {
		t.LostOnly++
	}
	if out.Resolved != "" {
		t.Resolved++
	}
}

// AllKills are all deaths by SIGKILL.
func (t *Tally) AllKills() int {
	return t.Kills[stage.Daemon] + t.Kills[stage.Source] + t.Kills[stage.Target] + t.AtRest
}

// Table is the tally in Markdown.
func (t *Tally) Table() string {
	var b strings.Builder
	row := func(what string, value any) { fmt.Fprintf(&b, "| %s | %v |\n", what, value) }
	b.WriteString("| | |\n|---|---|\n")
	row("handoffs attempted", t.Attempted)
	row("completed", t.Ends[vmstate.Completed])
	row("rolled back", t.Ends[vmstate.RolledBack])
	row("cancelled", t.Ends[vmstate.Aborted])
	row("failed", t.Ends[vmstate.Failed])
	row("the daemon died before it had answered the request", t.Unheard)
	row("kills", t.AllKills())
	row("of the daemon, in a handoff", t.Kills[stage.Daemon])
	row("of the daemon, at rest", t.AtRest)
	row("of the source", t.Kills[stage.Source])
	row("of the target", t.Kills[stage.Target])
	row("hangs of daemon, source, target", fmt.Sprintf("%d, %d, %d", t.Hangs[stage.Daemon], t.Hangs[stage.Source], t.Hangs[stage.Target]))
	row("QEMU and daemon at once (counted under both)", t.Both)
	row("strikes that found nobody", t.Missed)
	row("daemons ended by SIGTERM", t.Stops)
	row("slowest start of a daemon until ready", t.Slowest.Round(time.Millisecond))
	row("guests started", t.Guests)
	row("guests whose only runner was killed (VM failed, with its reason)", t.LostOnly)
	row("VMs resolved as `qlive resolve` offers", t.Resolved)
	row("**guests lost otherwise**", fmt.Sprintf("**%d**", t.Lost))
	row("checks of all guest memory", t.Verified)
	row("beats seen, none lost, repeated or torn", t.Beats)
	row("time", time.Since(t.Began).Round(time.Second))
	return b.String()
}

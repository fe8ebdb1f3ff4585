package kills_test

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/integration/kills/stage"
	"qlive/vmstate"
)

// nowhere is where a guest is that is lost.
const nowhere stage.Party = "nowhere"

// rule is a row of the tables of docs/reliability.md, docs/cpr.md, docs/postcopy.md and docs/backing.md: who has the guest in the end.
type rule struct {
	says   string
	course string          // empty: any
	party  stage.Party     // that was struck
	signal unix.Signal     // 0: any
	phases []vmstate.Phase // of the handoff then
	steps  string          // at or behind which it was; empty: any of the phase
	and    bool            // the daemon was killed with it: rows without it hold for both
	in     []stage.Party
}

// rules are looked at from the first to the last; the first that fits counts.
func rules() []rule {
	before := []vmstate.Phase{vmstate.Planned, vmstate.Preparing, vmstate.Prepared, vmstate.Switching}
	committing := []vmstate.Phase{vmstate.Committing}
	after := []vmstate.Phase{vmstate.Committed, vmstate.Draining, vmstate.Completed}
	from := append(committing, after...)
	either := []stage.Party{stage.Source, stage.Target}
	return []rule{
		{"the daemon dies before the commitment", "", stage.Daemon, 0, before, "", false, []stage.Party{stage.Source}},
		{"the daemon dies as it commits: the next one lets the source have what it has not let go of", "postcopy", stage.Daemon, 0, committing, "", false, either},
		{"the daemon dies from the commitment on", "", stage.Daemon, 0, from, "", false, []stage.Party{stage.Target}},

		{"a QEMU hangs before the commitment, or in it", "", "", unix.SIGSTOP, append(before, committing...), "", false, either},
		{"a QEMU hangs after it", "", "", unix.SIGSTOP, after, "", false, []stage.Party{stage.Target}},

		{"the target dies before the commitment", "", stage.Target, unix.SIGKILL, before, "", false, []stage.Party{stage.Source}},
		{"the target dies as it is told to run", "", stage.Target, unix.SIGKILL, committing, "", false, []stage.Party{stage.Source, nowhere}},
		{"the target dies with the guest", "", stage.Target, unix.SIGKILL, after, "", false, []stage.Party{nowhere}},

		{"the source dies together with the daemon as RAM is moved", "backing", stage.Source, unix.SIGKILL, before, "save.after", true, []stage.Party{nowhere, stage.Target}},
		{"the source dies when its devices are saved", "backing", stage.Source, unix.SIGKILL, before, "save.after", false, []stage.Party{stage.Target}},
		{"the source dies when it may have sent all of the guest", "", stage.Source, unix.SIGKILL, before, "migrate.after", false, []stage.Party{nowhere, stage.Target}},
		{"the source dies when the target may have all of the guest", "", stage.Source, unix.SIGKILL, before, "load.before", false, []stage.Party{nowhere, stage.Target}},
		{"the source dies before the commitment", "", stage.Source, unix.SIGKILL, before, "", false, []stage.Party{nowhere}},

		{"the source dies as it lets go, or soon after", "postcopy", stage.Source, unix.SIGKILL, committing, "", false, []stage.Party{nowhere, stage.Target}},
		{"the source dies when all pages have come", "postcopy", stage.Source, unix.SIGKILL, after, "receive.after", false, []stage.Party{stage.Target}},
		{"the source dies while pages come, or just have", "postcopy", stage.Source, unix.SIGKILL, after, "", false, []stage.Party{nowhere, stage.Target}},
		{"the source dies from the commitment on", "", stage.Source, unix.SIGKILL, from, "", false, []stage.Party{stage.Target}},
	}
}

func (r rule) fits(c cell, blow *stage.Blow) bool {
	points := c.course.Points()
	return (r.course == "" || r.course == c.course.String()) && (r.party == "" || r.party == blow.Party) && (r.signal == 0 || r.signal == blow.Signal) &&
		slices.Contains(r.phases, blow.Phase) && (!r.and || blow.And) &&
		(r.steps == "" || slices.Contains(points, "flip."+r.steps) && slices.Index(points, blow.Point) >= slices.Index(points, "flip."+r.steps))
}

// documented makes sure that the guest is where the documents say.
func documented(c cell, blow *stage.Blow, out stage.Outcome) error {
	is := out.In
	if out.Lost {
		is = nowhere
	}
	for _, r := range rules() {
		if !r.fits(c, blow) {
			continue
		}
		if !slices.Contains(r.in, is) {
			return fmt.Errorf("%s (%s, struck in %s): the guest is in the %s, documented is %s; the handoff is %s: %s", r.says, c.name(), blow.Phase, is,
				strings.Trim(fmt.Sprint(r.in), "[]"), out.Phase, out.Why)
		}
		return nil
	}
	return fmt.Errorf("%s, struck in %s, is not documented", c.name(), blow.Phase)
}

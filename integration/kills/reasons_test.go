package kills_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/integration/kills/stage"
	"qlive/vmstate"
)

// reason is what the VM says after its only runner was killed: the whole text, before QEMU's own last words.
type reason struct {
	mode   vmstate.Mode // empty: any
	party  stage.Party
	phases []vmstate.Phase // of the handoff when it was struck
	daemon bool            // was killed with it
	says   []string        // one of these; VM and PID are the VM's name and the victim's number, PHASE what the daemon was at, TARGET and SEEN how a QEMU was found
}

const (
	killed   = "cannot go on with VM: QEMU (process PID) was killed by signal 9 (killed)"
	untold   = "cannot go on with VM: QEMU (process PID) has ended, and how was told to nobody: the daemon that had started it was gone"
	unseen   = "cannot go on with VM: its QEMU, process PID, was killed or crashed while no daemon was watching"
	cutOff   = "cannot go on with the handoff of VM as it was: the daemon ended while it was PHASE; "
	bothDead = cutOff + "the source was found dead, the target TARGET; both QEMUs are dead"
	mayHave  = "the target dead; the target is dead and may have run: the guest's RAM may have moved on from what the source knows"

	apart      = ", and neither QEMU has all of its memory"
	letGo      = "the guest is lost: the source died as it let go of it" + apart
	tookIt     = "the guest is lost: the target ended as it took it: WHY" + apart
	comingFrom = "the guest is lost: the source died before all pages had come" + apart
	comingTo   = "the guest is lost: the target died before all pages had come" + apart
	ranIt      = "the guest is lost: the target died as soon as it ran it" + apart
)

// reasons has a row for each way in which the only runner can be killed. How a QEMU of an earlier daemon ended is told by Linux 6.15 and
// later, unless its parent is slow to ask; one that was dead before the next daemon looked has left its socket.
func reasons() []reason {
	before := []vmstate.Phase{vmstate.Planned, vmstate.Preparing, vmstate.Prepared, vmstate.Switching}
	after := []vmstate.Phase{vmstate.Committed, vmstate.Draining, vmstate.Completed}
	committing := []vmstate.Phase{vmstate.Committing}
	return []reason{
		{vmstate.ModePostcopy, stage.Source, append(before, committing...), false, []string{killed, untold, letGo, comingFrom}},
		{vmstate.ModePostcopy, stage.Source, after, false, []string{comingFrom}},
		{vmstate.ModePostcopy, stage.Target, committing, false, []string{killed, untold, tookIt, comingTo, ranIt}},
		{vmstate.ModePostcopy, stage.Target, after, false, []string{killed, untold, comingTo}},
		{vmstate.ModePostcopy, stage.Source, append(committing, after...), true, []string{cutOff + "the source was found dead, the target SEEN; neither QEMU has all of the guest, and no more of it can come"}},
		{vmstate.ModePostcopy, stage.Target, append(committing, after...), true, []string{killed, untold, unseen,
			cutOff + "the source was found SEEN, the target dead; the target is dead, and with it what had come of the guest"}},
		{"", stage.Source, before, false, []string{killed, untold}},
		{"", stage.Source, before, true, []string{killed, untold, unseen, bothDead,
			cutOff + "the source was found dead, the target TARGET; the target is gone and the source was not touched"}},
		{"", stage.Target, committing, false, []string{killed, untold, "cannot tell whether VM runs in the target"}},
		{"", stage.Target, committing, true, []string{cutOff + "the source was found paused (pid SOURCE), " + mayHave}},
		{"", stage.Target, after, false, []string{killed, untold}},
		{"", stage.Target, after, true, []string{killed, untold, unseen, cutOff + "the source was found paused (pid SOURCE), the target dead; the guest is in the target"}},
	}
}

// found is a target that has died with the source, or has not yet and was killed then.
const found = `(dead|[a-z]+ \(pid [0-9]+\); the target was killed)`

// seen is a QEMU that lives, or has died a moment later.
const seen = `[a-z-]+ \(pid [0-9]+\)`

// checkReason compares what is said of a guest that is lost with the table.
func checkReason(blow *stage.Blow, vm string, out stage.Outcome) error {
	victim := blow.Source
	if blow.Party == stage.Target {
		victim = blow.Target
	}
	words := strings.NewReplacer("VM", vm, "PID", fmt.Sprint(victim.PID), "PHASE", string(blow.Phase), "SOURCE", fmt.Sprint(blow.Source.PID))
	for _, r := range reasons() {
		if r.mode != "" && r.mode != blow.Mode || r.party != blow.Party || r.daemon != blow.And || !slices.Contains(r.phases, blow.Phase) {
			continue
		}
		for _, says := range r.says {
			text := strings.NewReplacer("TARGET", found, "SEEN", seen, "WHY", ".*").Replace(regexp.QuoteMeta(words.Replace(says)))
			if regexp.MustCompile("^" + text + "(; .*)?$").MatchString(out.Why) {
				return nil
			}
		}
		return fmt.Errorf("struck in %s: %q is none of %q", blow.Phase, out.Why, r.says)
	}
	return fmt.Errorf("no reason is known for a %s that is killed in %s", blow.Party, blow.Phase)
}

// The reason is exact wherever the only runner is killed: before the switch, in it, at the point of no return and after it, with the daemon and without.
func TestReasons(t *testing.T) {
	m := newMatrix(t)
	m.bare = true
	lost := 0
	for _, k := range []stage.Strike{
		{Party: stage.Source, Point: "flip.compare-devices.before"},
		{Party: stage.Source, Point: "flip.stop.after", And: true},
		{Party: stage.Target, Point: "flip.run-target.after"},
		{Party: stage.Target, Point: "flip.run-target.after", And: true},
		{Party: stage.Target, Point: "flip.end-source.before", And: true},
	} {
		k.Signal = unix.SIGKILL
		c := cell{usual(), k}
		t.Run(c.name(), func(t *testing.T) { m.visit(t, c) })
		lost++
	}
	if m.lost != lost {
		t.Errorf("%d guests of %d were lost", m.lost, lost)
	}
}

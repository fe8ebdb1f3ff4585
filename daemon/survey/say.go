package survey

import (
	"fmt"
	"strings"
	"time"

	"qlive/daemon/record"
	"qlive/internal/qemu"
	"qlive/vmstate"
)

// Level says how bad a finding is.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warn" // somebody should know
	Fail Level = "fail" // a guest stands or is lost, or a file must be mended
)

// Finding is one sentence about a VM.
type Finding struct {
	Level  Level
	Detail string
	Remedy string // what to do about it; empty if nothing is to be done
}

// start is the remedy for whatever only a daemon can go on with.
const start = "start the daemon"

// Findings is what there is to say of the VM: first what becomes of its guest, then what is wrong with its files.
func (v VM) Findings() []Finding {
	var list []Finding
	add := func(level Level, remedy, format string, args ...any) {
		list = append(list, Finding{Level: level, Detail: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	switch last, in := v.last(); {
	case v.JournalErr != nil || v.RecordErr != nil:
		add(Fail, "mend the file that is named below; or end what lives by hand, start the daemon, and `qlive rm --force "+v.Name+"`",
			"who runs its guest cannot be told from the run directory; %s; a daemon that is started leaves it alone", v.alive())
	case in:
		list = append(list, v.cutOff(last))
	case v.Record != nil:
		list = append(list, v.recorded(*v.Record))
	case len(v.QEMUs) > 0:
		add(Warn, "end it by hand", "nothing is written down of it, so that it has never run a guest, but %s", v.alive())
	case v.Definition != nil && v.Definition.Err == nil:
		list = append(list, v.defined())
	case v.Definition == nil:
		add(OK, "", "nothing is left of it but files; a daemon that is started clears them away when a VM of that name is started")
	}
	if v.Torn {
		add(OK, "", "the last record of its journal was cut short: it was never acted upon, and is left out")
	}
	for _, err := range []error{v.RecordErr, v.JournalErr} {
		list = append(list, wrong(err)...)
	}
	if v.Definition != nil {
		list = append(list, wrong(v.Definition.Err)...)
	}
	return list
}

func wrong(err error) []Finding {
	if err == nil {
		return nil
	}
	p := vmstate.ProblemOf(err)
	return []Finding{{Level: Fail, Detail: p.Detail, Remedy: p.Remedy}}
}

// last is the last record of the journal, and whether it is of a handoff that has not ended, or that left something to a person.
func (v VM) last() (Entry, bool) {
	if len(v.Journal) == 0 {
		return Entry{}, false
	}
	last := v.Journal[len(v.Journal)-1]
	return last, !last.Phase.Ended() || last.Open() && (last.Undecided || last.Silent || last.Resolve != "")
}

// recorded is said of a VM without a handoff under way.
func (v VM) recorded(r record.VM) Finding {
	keeper, has := v.keeper()
	p, lives := v.process(keeper.Process)
	boots := len(v.QEMUs) == 0 && v.Definition != nil && v.Definition.Definition.Spec.Autostart && v.Booted
	again := "start the daemon, and then `qlive start " + v.Name + "`"
	switch {
	case has && lives && p.Stopped:
		return Finding{Warn, fmt.Sprintf("it is in %s; its guest stands; a daemon that is started takes it up once it goes on", p), fmt.Sprintf("kill -CONT %d", p.PID)}
	case has && lives:
		return Finding{OK, fmt.Sprintf("it is in %s (QEMU %s, %s), since %s%s; a daemon that is started takes it up again",
			p, keeper.Version, keeper.Binary.Path, when(r.StartedAt), v.handoffs()), ""}
	case boots:
		return v.defined()
	case has && !v.SocketLeft:
		return Finding{OK, fmt.Sprintf("its QEMU, process %d, has ended by itself%s; a daemon that is started shows it as stopped", keeper.Process.PID, v.handoffs()), ""}
	case has && r.Spec.Restart == vmstate.RestartOnFailure:
		return Finding{Warn, fmt.Sprintf("its QEMU, process %d, was killed or has crashed%s; a daemon that is started starts it anew", keeper.Process.PID, v.handoffs()), start}
	case has:
		return Finding{Fail, fmt.Sprintf("its QEMU, process %d, was killed or has crashed%s; a daemon that is started shows it as failed", keeper.Process.PID, v.handoffs()), again}
	case r.Ended == vmstate.Starting:
		return Finding{Warn, "its QEMU has failed, and it was to be started anew; a daemon that is started does so", start}
	case r.Ended == vmstate.Broken && r.Ending != nil:
		return Finding{Fail, "its QEMU has failed: " + r.Ending.Detail, again}
	case r.Ended != "":
		return Finding{OK, "it has no QEMU; a daemon that is started shows it as " + string(r.Ended), ""}
	case len(v.QEMUs) > 0:
		return Finding{Warn, fmt.Sprintf("it was being started when the daemon ended, and %s; a daemon that is started ends that, since it has run no guest", v.alive()), start}
	}
	return Finding{Warn, "it was being started when the daemon ended, and no QEMU of it lives", again}
}

// handoffs is what the journal says of the last one, with a comma before it.
func (v VM) handoffs() string {
	last, _ := v.last()
	if last.Migration == "" {
		return ""
	}
	return fmt.Sprintf("; its last handoff, %s, %s at %s", last.Migration, ended(last.Phase), when(last.At))
}

func ended(p vmstate.Phase) string {
	switch p {
	case vmstate.Completed:
		return "was completed"
	case vmstate.RolledBack:
		return "was rolled back"
	case vmstate.Aborted:
		return "was cancelled"
	}
	return "failed"
}

// defined is said of a VM that the run directory knows nothing of.
func (v VM) defined() Finding {
	spec := v.Definition.Definition.Spec
	switch {
	case spec.Autostart && v.Booted:
		return Finding{OK, "it is stopped, and the host has booted since it was started last: a daemon that is started starts it", ""}
	case spec.Autostart:
		return Finding{OK, "it is stopped; it is started after the next boot of the host", ""}
	}
	return Finding{OK, "it is stopped", ""}
}

// alive names the QEMUs that live.
func (v VM) alive() string {
	if len(v.QEMUs) == 0 {
		return "no QEMU of it lives"
	}
	var names []string
	for _, p := range v.QEMUs {
		names = append(names, p.String())
	}
	return strings.Join(names, " and ") + " " + map[bool]string{true: "lives", false: "live"}[len(names) == 1]
}

// process finds one that lives.
func (v VM) process(id qemu.Identity) (Process, bool) {
	for _, p := range v.QEMUs {
		if p.Identity == id && id.PID != 0 {
			return p, true
		}
	}
	return Process{}, false
}

// String is such as "process 812".
func (p Process) String() string {
	text := fmt.Sprintf("process %d", p.PID)
	if p.Stopped {
		text += ", which a signal has stopped"
	}
	return text
}

// side is one of the two QEMUs of a handoff.
func (v VM) side(name string, id qemu.Identity) string {
	switch p, lives := v.process(id); {
	case id.PID == 0:
		return "the " + name + " was not started"
	case lives:
		return fmt.Sprintf("the %s, %s, lives", name, p)
	}
	return fmt.Sprintf("the %s, process %d, is dead", name, id.PID)
}

func when(t time.Time) string { return t.UTC().Format(time.RFC3339) }

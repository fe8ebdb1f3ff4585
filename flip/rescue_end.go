package flip

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"qlive/flip/recovery"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// remembered is the migration as its records tell it, as far as the caller does not know better.
func remembered(r Recovery) vmstate.Migration {
	m := r.Migration
	for i, rec := range r.Records {
		m.ID, m.VM = rec.Migration, rec.VM
		m.Mode = cmp.Or(rec.Mode, vmstate.ModeShared)
		if rec.Way != "" {
			m.Way = rec.Way
		}
		if rec.Source.PID != 0 {
			m.From.PID = rec.Source.PID
		}
		if rec.Target.PID != 0 {
			m.To.PID = rec.Target.PID
		}
		if rec.Error != nil {
			m.Error = rec.Error
		}
		if i < len(r.Times) {
			m = dated(m, rec.Phase, r.Times[i])
		}
		m.Phase = rec.Phase
	}
	return m
}

// dated adds a phase to those that m has, if it is new.
func dated(m vmstate.Migration, p vmstate.Phase, at time.Time) vmstate.Migration {
	if m.StartedAt.IsZero() {
		m.StartedAt = at
	}
	n := len(m.Phases)
	for _, had := range m.Phases {
		if had.Phase == p {
			return m
		}
	}
	m.Phases = append(m.Phases[:n:n], vmstate.PhaseTime{Phase: p, At: at})
	if n > 0 {
		m.Phases[n-1].US = at.Sub(m.Phases[n-1].At).Microseconds()
	}
	if p.Ended() && m.EndedAt == nil {
		m.EndedAt, m.TotalUS = &at, at.Sub(m.StartedAt).Microseconds()
	}
	return m
}

// record writes what comes next into the journal, and fails if it cannot.
func (s *rescue) record(r Record) error {
	r = s.filled(r)
	if err := s.r.Journal.Record(r); err != nil {
		return notWritten(r.Phase, err)
	}
	s.entered(r)
	return nil
}

// enter is record for what holds whether or not it can be written down.
func (s *rescue) enter(r Record) {
	if err := s.record(r); err != nil {
		s.r.Log.Error().Err(err).Str("phase", string(r.Phase)).Msg("phase not in the journal")
		s.entered(s.filled(r))
	}
}

// filled completes r with what stays the same.
func (s *rescue) filled(r Record) Record {
	r.Migration, r.VM, r.Source, r.Target = s.last.Migration, s.last.VM, s.last.Source, s.last.Target
	r.RunState, r.Mode, r.Way = s.last.RunState, s.last.Mode, s.last.Way
	r.Whole, r.Sent = r.Whole || s.last.Whole, s.last.Sent
	if r.Target == (ProcessID{}) {
		r.Target = s.target.side.ID()
	}
	return r
}

func (s *rescue) entered(r Record) {
	s.last = r
	s.m.Phase = r.Phase
	s.m = dated(s.m, r.Phase, time.Now().UTC())
	s.publish()
}

func (s *rescue) publish() {
	if s.r.Publish != nil {
		m := s.m
		m.Log, m.Warnings = append([]vmstate.LogLine{}, m.Log...), append([]string{}, m.Warnings...)
		m.Phases = append([]vmstate.PhaseTime{}, m.Phases...)
		s.r.Publish(m)
	}
}

// end enters an end, with a problem that says how it came to it.
func (s *rescue) end(row recovery.Row, e recovery.Evidence, to vmstate.Phase, open bool) {
	silent := to == vmstate.Failed && recovery.Silent(e)
	e.Phase = to
	err := s.explain(row, e, open)
	r := Record{Phase: to, Undecided: open, Silent: silent}
	if to == vmstate.Completed {
		s.m.Warnings = append(s.m.Warnings, err.Detail)
	} else {
		r.Error = vmstate.ProblemOf(err)
		s.m.Error = r.Error
	}
	s.enter(r)
}

// explain says that the daemon had gone, what was found, what was done, and how it is now.
func (s *rescue) explain(row recovery.Row, e recovery.Evidence, open bool) *vmstate.Error {
	did := append([]string{}, s.did...)
	if s.failed != nil {
		did = append(did, s.failed.Error())
	}
	did = append(did, row.Because)
	kind, remedy := vmstate.Unavailable, "ask for the handoff again"
	switch {
	case open:
		kind, remedy = vmstate.Lost, "look at both QEMUs and their logs, and decide with `qlive resolve "+s.m.VM+" --to source|target|discard`"
	case e.Phase == vmstate.Failed && e.Source.Gone():
		kind, remedy = vmstate.Lost, "start the VM anew"
	case e.Phase == vmstate.Failed:
		kind, remedy = vmstate.Lost, "find out why the source does not answer (its log, /proc/PID/stack); once it does, `qlive resolve "+s.m.VM+" --to source` lets the guest go on"
	}
	err := vmstate.Errorf(kind, "cannot go on with the handoff of %s as it was: the daemon ended while it was %s; %s; %s",
		s.m.VM, s.began(), s.found, strings.Join(did, "; ")).With(remedy)
	if e.Phase == vmstate.Completed {
		err.Detail = fmt.Sprintf("the daemon ended while the handoff was %s, and it was completed afterwards: %s; %s", s.began(), s.found, strings.Join(did, "; "))
	}
	err.Step, err.VM, err.Migration = string(s.began()), s.m.VM, s.m.ID
	return err
}

// began is the phase that the handoff was left in.
func (s *rescue) began() vmstate.Phase { return s.r.Records[len(s.r.Records)-1].Phase }

// settle records that what a person has decided is done.
func (s *rescue) settle() {
	r := s.decided(s.last.Resolve)
	r.Settled = true
	s.enter(r)
}

// decided is the record of a decision on a handoff that has failed.
func (s *rescue) decided(to recovery.Choice) Record {
	return Record{Phase: vmstate.Failed, Undecided: s.last.Undecided, Silent: s.last.Silent, Error: s.last.Error, Resolve: to}
}

// outcome is what the caller gets once nothing is left to do.
func (s *rescue) outcome(e recovery.Evidence, row recovery.Row) Outcome {
	out := Outcome{Migration: s.m, Undecided: s.last.Open() && s.last.Undecided}
	e.Resolve = s.last.Resolve
	if !s.last.Settled {
		e.Resolve = recovery.Undecided
	}
	keeper := view{}
	switch e.Keeper(s.last.Undecided) {
	case recovery.ToSource:
		keeper = s.source
	case recovery.ToTarget:
		keeper = s.target
	}
	if !out.Undecided {
		out.Keeper, out.RunState = keeper.side, string(keeper.state)
	}
	switch {
	case row.Do == recovery.Refuse:
		err := vmstate.Errorf(vmstate.Conflict, "cannot give %s to the %s: %s", s.m.VM, s.last.Resolve, row.Because)
		err.Err, err.VM, err.Migration = s.failed, s.m.VM, s.m.ID
		if s.failed != nil {
			err.Detail += ": " + s.failed.Error()
		}
		out.Err = err.With("`qlive resolve " + s.m.VM + "` shows what can be chosen")
	case s.last.Phase != vmstate.Completed && !s.last.Settled && s.m.Error != nil:
		out.Err = errorOf(s.m.Error)
	}
	return out
}

// errorOf makes an error of a problem that was written down.
func errorOf(p *vmstate.Problem) error {
	return &vmstate.Error{Kind: p.Kind(), Step: p.Step, VM: p.VM, Migration: p.Migration, Detail: p.Detail, Remedy: p.Remedy, Words: p.QEMU, Err: errors.New(p.Detail)}
}

func (s *rescue) logf(format string, args ...any) {
	line := vmstate.LogLine{At: time.Now().UTC(), Text: fmt.Sprintf("recovery: "+format, args...)}
	s.r.Log.Info().Str("migration", s.m.ID).Msg(line.Text)
	s.m.Log = append(s.m.Log, line)
}

// ranBefore tells whether the guest ran before it was stopped.
func (r Record) ranBefore() bool { return r.RunState == string(qmp.RunRunning) }

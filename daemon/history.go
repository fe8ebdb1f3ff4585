package daemon

import (
	"cmp"
	"encoding/json"
	"errors"
	"time"

	"qlive/flip"
	"qlive/internal/journal"
	"qlive/vmstate"
)

// attempt is what the journal says of one migration.
type attempt struct {
	records []flip.Record
	times   []time.Time
}

func (a *attempt) last() flip.Record { return a.records[len(a.records)-1] }

// target names the target, as soon as some record does.
func (a *attempt) target() flip.ProcessID {
	for i := len(a.records) - 1; i >= 0; i-- {
		if t := a.records[i].Target; t != (flip.ProcessID{}) {
			return t
		}
	}
	return flip.ProcessID{}
}

// readHistory reads the migrations of a VM, oldest first. A torn last record is one that was never acted upon.
func readHistory(path string) ([]*attempt, error) {
	records, err := journal.Read(path)
	if err != nil && !errors.Is(err, journal.ErrTorn) {
		return nil, err
	}
	var list []*attempt
	for _, r := range records {
		var v flip.Record
		if err := json.Unmarshal(r.Data, &v); err != nil {
			return nil, vmstate.Errorf(vmstate.Host, "cannot understand record %d of the journal %s: %w", r.Seq, path, err).
				With("find out who changed the file")
		}
		if n := len(list); n == 0 || list[n-1].last().Migration != v.Migration {
			list = append(list, &attempt{})
		}
		a := list[len(list)-1]
		a.records, a.times = append(a.records, v), append(a.times, r.At)
	}
	return list, nil
}

// migration is what can still be told of an attempt from the journal alone: its phases, their times, how it ended.
func (a *attempt) migration(binaryOf func(dir string) (path, version string)) vmstate.Migration {
	first, last, target := a.records[0], a.last(), a.target()
	m := vmstate.Migration{
		ID: last.Migration, VM: last.VM, Mode: cmp.Or(last.Mode, vmstate.ModeShared), Way: last.Way, Phase: last.Phase, StartedAt: a.times[0],
		From: vmstate.QEMUProcess{PID: first.Source.PID}, To: vmstate.QEMUProcess{PID: target.PID},
		Warnings: []string{}, Log: []vmstate.LogLine{}, Error: last.Error,
	}
	m.From.Binary, m.From.Version = binaryOf(first.Source.Dir)
	m.To.Binary, m.To.Version = binaryOf(target.Dir)
	for i, r := range a.records {
		if n := len(m.Phases); n > 0 {
			m.Phases[n-1].US = a.times[i].Sub(m.Phases[n-1].At).Microseconds()
			if m.Phases[n-1].Phase == r.Phase {
				continue // a record that says more of the same phase
			}
		}
		m.Phases = append(m.Phases, vmstate.PhaseTime{Phase: r.Phase, At: a.times[i]})
	}
	if end := a.times[len(a.times)-1]; last.Phase.Ended() {
		m.EndedAt, m.TotalUS = &end, end.Sub(m.StartedAt).Microseconds()
		if last.Phase == vmstate.Completed {
			m.Progress = 100
		}
	}
	return m
}

package flip

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"qlive/flip/recovery"
	"qlive/internal/failpoint"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

func TestResolve(t *testing.T) {
	const run, stand = qmp.RunRunning, qmp.RunPaused
	for name, tt := range map[string]struct {
		source, target qmp.RunState
		to             recovery.Choice
		refused        string // why
		keeper         recovery.Choice
		told           []string // source's, then target's
		lives          string
	}{
		"source":                  {source: stand, target: run, to: "source", keeper: "source", told: []string{"cont in failed"}, lives: "source"},
		"source, target mute":     {source: stand, target: "mute", to: "source", keeper: "source", told: []string{"cont in failed"}, lives: "source"},
		"source, target dead":     {source: stand, to: "source", keeper: "source", told: []string{"cont in failed"}, lives: "source"},
		"source, but it is mute":  {source: "mute", target: run, to: "source", refused: "the source does not answer", lives: "source target"},
		"source, but it is dead":  {target: run, to: "source", refused: "the source is dead", lives: "target"},
		"target, which stands":    {source: stand, target: stand, to: "target", keeper: "target", told: []string{"cont in failed"}, lives: "target"},
		"target, which runs":      {source: stand, target: run, to: "target", keeper: "target", lives: "target"},
		"target, source mute":     {source: "mute", target: run, to: "target", keeper: "target", lives: "target"},
		"target, but it is mute":  {source: stand, target: "mute", to: "target", refused: "the target does not answer", lives: "source target"},
		"target, but it is empty": {source: stand, target: qmp.RunInMigrate, to: "target", refused: "never given the guest", lives: "source target"},
		"discard":                 {source: stand, target: "mute", to: "discard"},
		"nonsense":                {source: stand, target: run, to: "both", refused: "choose", lives: "source target"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := wreck{phase: vmstate.Failed, source: tt.source, target: tt.target}
			r, journal, source, target := w.stage(t, nil)
			r.Records[0].Undecided = true
			out := Resolve(t.Context(), r, tt.to)
			told := append(source.heard(), target.heard()...)
			var lives []string
			for _, a := range []*actor{source, target} {
				if a.lives() {
					lives = append(lives, a.name)
				}
			}
			if strings.Join(lives, " ") != tt.lives || !slices.Equal(told, tt.told) {
				t.Errorf("told %q, and %q live", told, lives)
			}
			if tt.refused != "" {
				p := vmstate.ProblemOf(errorOrNothing(out.Err))
				if !strings.Contains(p.Detail+p.Remedy, tt.refused) || len(journal.records) != 1 || !out.Undecided {
					t.Errorf("%+v, %d records", out, len(journal.records))
				}
				return
			}
			last := journal.records[len(journal.records)-1]
			if out.Err != nil || out.Undecided || !last.Settled || last.Resolve != tt.to {
				t.Errorf("%+v, last record %+v", out, last)
			}
			if want := map[recovery.Choice]*Side{"source": r.Source, "target": r.Target}[tt.keeper]; out.Keeper != want {
				t.Errorf("the keeper is %v", out.Keeper)
			}
			if again := Resolve(t.Context(), Recovery{Records: journal.records, Source: r.Source, Target: r.Target, Journal: journal, Gate: r.Gate}, tt.to); vmstate.KindOf(again.Err) != vmstate.Conflict {
				t.Errorf("a second time: %v", again.Err)
			}
		})
	}
}

func errorOrNothing(err error) error {
	if err == nil {
		return fmt.Errorf("nothing was refused")
	}
	return err
}

// What a person has decided is carried through by the next daemon, if this one dies over it.
func TestResolveInterrupted(t *testing.T) {
	for _, point := range []string{"flip.recover-fence.before", "flip.recover-fence.after", "flip.recover-give-back.before", "flip.recover-give-back.after", "flip.recover-settle.before"} {
		t.Run(point, func(t *testing.T) {
			points, err := failpoint.New(point + "=1*panic")
			if err != nil {
				t.Fatal(err)
			}
			w := wreck{phase: vmstate.Failed, source: qmp.RunPaused, target: qmp.RunRunning}
			r, journal, source, target := w.stage(t, points)
			r.Records[0].Undecided = true
			func() {
				defer func() { _ = recover() }() // the death of this daemon
				Resolve(t.Context(), r, recovery.ToSource)
			}()
			r.Records, r.Times = slices.Clone(journal.records), nil
			out := Recover(t.Context(), r)
			if out.Keeper != r.Source || out.Undecided || target.lives() || !slices.Equal(source.heard(), []string{"cont in failed"}) {
				t.Errorf("%+v; the source was told %q, the target lives: %v", out, source.heard(), target.lives())
			}
		})
	}
}

// What is shown is what would be done.
func TestLook(t *testing.T) {
	w := wreck{phase: vmstate.Failed, source: qmp.RunPaused, target: "mute"}
	r, journal, source, target := w.stage(t, nil)
	r.Records[0].Undecided = true
	o := Look(t.Context(), r)
	if o.Evidence.Source != recovery.Stands || o.Evidence.Target != recovery.Mute || o.Last.Phase != vmstate.Failed || len(o.Choices) != 3 {
		t.Fatalf("%+v", o)
	}
	for _, c := range o.Choices {
		if c.Allowed != (c.To != recovery.ToTarget) || c.Why == "" {
			t.Errorf("%+v", c)
		}
	}
	if !strings.Contains(o.Choices[0].Why, "moved on") {
		t.Errorf("it does not warn: %q", o.Choices[0].Why)
	}
	if len(journal.records) != 1 || !source.lives() || !target.lives() || len(source.heard()) != 0 {
		t.Error("something was touched")
	}
	r.Records = []Record{{Migration: "mig-1", VM: "vm1", Phase: vmstate.Completed}}
	if o := Look(t.Context(), r); len(o.Choices) != 0 {
		t.Errorf("choices where nothing is to be decided: %+v", o)
	}
}

// A handoff that has failed only because somebody did not answer is decided once he does.
func TestSilenceEnds(t *testing.T) {
	const run, stand = qmp.RunRunning, qmp.RunPaused
	for name, tt := range map[string]struct {
		source, target qmp.RunState
		open           bool
		keeper         recovery.Choice
		told           []string
	}{
		"the source speaks":                 {source: stand, keeper: "source", told: []string{"cont in failed"}},
		"the target has obeyed":             {source: stand, target: run, open: true, keeper: "target"},
		"the target has not obeyed":         {source: stand, target: stand, open: true, keeper: "target", told: []string{"cont in failed"}},
		"the target has died":               {source: stand, open: true},
		"both speak, and the source runs":   {source: run, target: stand, open: true},
		"the target is silent still":        {source: stand, target: "mute", open: true},
		"the source is silent still":        {source: "mute", keeper: "source"},
		"the target lives behind the fence": {source: stand, target: stand},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := wreck{phase: vmstate.Failed, source: tt.source, target: tt.target}
			r, journal, source, target := w.stage(t, nil)
			r.Records[0].Undecided, r.Records[0].Silent = tt.open, true
			out := Recover(t.Context(), r)
			if told := append(source.heard(), target.heard()...); !slices.Equal(told, tt.told) {
				t.Errorf("told %q", told)
			}
			if want := map[recovery.Choice]*Side{"source": r.Source, "target": r.Target}[tt.keeper]; out.Keeper != want {
				t.Errorf("the keeper is %v, want the %q", out.Keeper, tt.keeper)
			}
			last, decided := journal.records[len(journal.records)-1], len(journal.records) > 1
			if decided != (tt.keeper != "" && tt.source != "mute") || decided && (!last.Settled || last.Resolve != tt.keeper || out.Undecided) {
				t.Errorf("last record %+v, %+v", last, out)
			}
			if tt.keeper == "target" && source.lives() {
				t.Error("the source lives")
			}
		})
	}
}

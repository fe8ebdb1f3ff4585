package daemon

import (
	"context"
	"time"

	"qlive/flip"
	"qlive/vmstate"
)

// factsLimit bounds how long the source may take to say what the choice of a mode rests on.
const factsLimit = 3 * time.Second

// chooseMode gives the mode of a handoff, see [flip.ChooseMode]. QEMU is asked only where its answer matters. Of one that gives none nothing is
// held against: the handoff looks again, and says so.
func (m *machine) chooseMode(ctx context.Context, asked vmstate.Mode) (flip.Choice, error) {
	if asked == "" {
		asked = vmstate.ModeAuto
	}
	m.mu.Lock()
	g, objects, adopted, unfit := m.current, m.objects, m.adoption, m.unfit
	m.mu.Unlock()
	if adopted != nil && unfit != nil {
		return flip.Choice{}, unfit
	}
	if choice, err := chooseAdopted(m.spec, adopted, asked); choice.Mode != "" || err != nil {
		return choice, err
	}
	facts := flip.Facts{AuxRAMShare: true} // a guest of qlive's has all of its RAM in files that qlive holds
	if asked == vmstate.ModeCPR && g != nil && g.side.Monitor != nil {
		ctx, cancel := context.WithTimeout(ctx, factsLimit)
		defer cancel()
		seen, err := flip.LookForFacts(ctx, g.side, objects)
		if err != nil {
			m.log.Warn().Err(err).Msg("QEMU did not say what the choice of a mode rests on")
		} else {
			facts = seen
		}
	}
	return flip.ChooseMode(m.spec.Name, asked, facts)
}

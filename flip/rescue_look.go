package flip

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"qlive/flip/memory"
	"qlive/flip/recovery"
	"qlive/internal/proc"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// answerLimit is how long a QEMU may take to say what it does. One that is healthy needs a millisecond.
const answerLimit = 3 * time.Second

func (s *rescue) answerLimit() time.Duration { return cmp.Or(s.r.AnswerLimit, answerLimit) }

// look gathers the evidence. Both QEMUs are asked at once; each has one deadline in all, and is not asked again once it has let it pass.
func (s *rescue) look(ctx context.Context) recovery.Evidence {
	ctx, cancel := context.WithTimeout(ctx, s.answerLimit())
	defer cancel()
	e := recovery.Evidence{
		Phase: s.last.Phase, NeverRan: s.last.NeverRan, Ran: s.last.ranBefore(), Restarts: s.last.Way == vmstate.WayLive,
		Moved: s.unread != nil || s.ledger != nil && s.ledger.Away(),
	}
	if s.last.Open() {
		e.Resolve = s.last.Resolve
	}
	var both sync.WaitGroup
	both.Go(func() { e.Source = s.source.sight(ctx, s.last.Way != vmstate.WayDeviceState) })
	both.Go(func() {
		if e.Target = s.target.sight(ctx, false); s.last.Mode == vmstate.ModePostcopy {
			s.target.askMoves(ctx)
		}
	})
	both.Wait()
	e.Pages = s.pages(e)
	if s.r.Memory != nil && recovery.MindsStrangers(s.last.Phase) {
		pids, err := strangers(slices.Concat(s.r.Memory.Regions(), s.r.To.Regions()), s.source.pid(), s.target.pid(), os.Getpid())
		if err != nil {
			s.logf("%v", err)
		}
		if e.Stranger = len(pids) > 0; e.Stranger {
			s.logf("the guest's RAM is mapped by processes that qlive does not know: %v", pids)
		}
	}
	if s.found == "" {
		s.found = fmt.Sprintf("the source was found %s, the target %s", s.source.words(e.Source), s.target.words(e.Target))
	}
	return e
}

// sight is what is seen of v now. In a migration a source's run state alone does not say what becomes of its guest.
func (v *view) sight(ctx context.Context, migrates bool) recovery.Sight {
	switch {
	case v.side == nil && !v.started:
		return recovery.Absent
	case v.side == nil || v.killed || v.side.ended():
		return recovery.Dead
	case v.side.Monitor == nil || v.mute:
		return recovery.Mute
	}
	state, err := v.side.Monitor.QueryStatus(ctx)
	var migration qmp.Migration
	if err == nil && migrates {
		migration, err = v.side.Monitor.QueryMigrate(ctx)
	}
	if v.silent(ctx, err) != nil {
		if v.mute {
			return recovery.Mute
		}
		return recovery.Dead
	}
	v.state, v.moves = state.Status, migration.Status
	seen := classify(state)
	if migrates && migration.Status != qmp.MigrationNone && !migration.Status.Ended() && (seen == recovery.Runs || seen == recovery.Stands) {
		return recovery.Moving
	}
	return seen
}

// classify says what a run state means for who may run the guest. One that is not known here is that of a guest that has been run.
func classify(s qmp.Status) recovery.Sight {
	switch s.Status {
	case qmp.RunInMigrate:
		return recovery.Loading
	case qmp.RunPaused, qmp.RunPrelaunch, qmp.RunPostMigrate:
		return recovery.Stands
	case qmp.RunFinishMigrate, qmp.RunSaveVM, qmp.RunRestoreVM, qmp.RunColo:
		return recovery.Moving
	}
	if s.Running {
		return recovery.Runs
	}
	return recovery.Ended
}

func (v *view) pid() int {
	if v.side == nil {
		return 0
	}
	return v.side.Process.PID()
}

// words says it for people.
func (v *view) words(s recovery.Sight) string {
	switch s {
	case recovery.Absent:
		return "never started"
	case recovery.Dead:
		return "dead"
	case recovery.Mute:
		return fmt.Sprintf("silent (pid %d)", v.pid())
	}
	return fmt.Sprintf("%s (pid %d)", v.state, v.pid())
}

// strangers are the processes other than those named that map some of the guest's RAM.
func strangers(ram []*memory.Region, known ...int) ([]int, error) {
	all, err := proc.PIDs()
	if err != nil {
		return nil, fmt.Errorf("cannot see who maps the guest's RAM: %w", err)
	}
	var pids []int
	for _, pid := range all {
		if slices.Contains(known, pid) {
			continue
		}
		maps, err := proc.ReadMaps(pid)
		if err != nil {
			continue // gone meanwhile
		}
		if slices.ContainsFunc(maps, func(m proc.Mapping) bool { return isOf(ram, m) }) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func isOf(ram []*memory.Region, m proc.Mapping) bool {
	return m.Inode != 0 && slices.ContainsFunc(ram, func(r *memory.Region) bool {
		return r.Inode() == m.Inode && unix.Major(r.Dev()) == m.DevMajor && unix.Minor(r.Dev()) == m.DevMinor
	})
}

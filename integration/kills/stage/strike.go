package stage

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/journal"
	"qlive/vmstate"
)

// Party is who may be struck.
type Party string

// The parties of a handoff.
const (
	Daemon Party = "daemon"
	Source Party = "source"
	Target Party = "target"
)

// Parties are all of them.
func Parties() []Party { return []Party{Daemon, Source, Target} }

// Strike is one blow in the middle of a handoff.
type Strike struct {
	Party Party
	// Signal is SIGKILL, or SIGSTOP: then a QEMU hangs until the daemon has decided, and goes on late; a daemon hangs until whoever
	// supervises it kills it.
	Signal unix.Signal
	Point  string        // at which failpoint; empty: at an instant
	After  time.Duration // the instant, from asking for the handoff
	// GoesOn lets a daemon that hangs go on instead.
	GoesOn bool
	// And kills the daemon as well, at the same instant: the next one finds the other dead, or mute.
	And bool
	// Hang is how long a QEMU hangs at the most; 0 for 4 s.
	Hang time.Duration
}

// String says it as a case is called.
func (k Strike) String() string {
	at, what := k.Point, unix.SignalName(k.Signal)
	if at == "" {
		at = fmt.Sprintf("after %v", k.After)
	}
	if k.GoesOn {
		what += "+SIGCONT"
	}
	if k.And {
		what += "+daemon"
	}
	return fmt.Sprintf("%s/%s/%s", at, k.Party, what)
}

// Failpoints stop the daemon where the strike comes, when the point is reached for the n-th time (from 1) in its life; then whoever is meant
// is struck at exactly that place.
func (k Strike) Failpoints(n int) string {
	switch {
	case k.Point == "":
		return ""
	case n <= 1:
		return k.Point + "=1*stop"
	}
	return fmt.Sprintf("%s=%d*off->1*stop", k.Point, n-1)
}

// Blow is a strike that was made.
type Blow struct {
	Strike
	Mode      vmstate.Mode  // of the handoff, as it was asked for
	Migration string        // id of the handoff; empty if it was not heard of before its daemon died
	Phase     vmstate.Phase // of the handoff when it was struck, from the journal; planned if that says nothing yet
	Source    *QEMU         // that had the guest before
	Target    *QEMU         // nil if there was none
	Missed    bool          // there was nobody to strike, or the handoff was over
	hung      *QEMU         // that goes on when the next daemon has decided
}

func (b *Blow) victim() *QEMU {
	switch b.Party {
	case Source:
		return b.Source
	case Target:
		return b.Target
	}
	return nil
}

const (
	// A daemon that hangs is killed after that, as a watchdog does; or it goes on.
	supervised = 300 * time.Millisecond
	// A QEMU that hangs goes on when the daemon has decided, or then.
	hangLimit = 4 * time.Second
)

// asked is what became of a request for a handoff.
type asked struct {
	id  string
	err error
}

// Strike asks for a handoff of g and strikes in the middle of it. The daemon must have been started with the strike's failpoints. If it is dead
// afterwards it is for the caller to start it again; it is after a blow that missed its failpoint, too, which would stop it later when nobody looks.
func (s *Stage) Strike(ctx context.Context, g *Guest, spec vmstate.MigrationSpec, k Strike) (*Blow, error) {
	living := g.Living()
	if len(living) != 1 {
		return nil, fmt.Errorf("%d QEMUs of %s live before the handoff", len(living), g.Name)
	}
	blow := &Blow{Strike: k, Mode: spec.Mode, Source: living[0]}
	spec.VM = g.Name
	before, err := s.lastRecord(g.Name)
	if err != nil {
		return nil, err
	}
	answer := make(chan asked, 1)
	began := time.Now()
	go func() {
		m, err := s.Client.Migrate(ctx, spec, "")
		answer <- asked{m.ID, err}
	}()
	if err := s.reach(ctx, g, k, began, answer, blow); err != nil {
		return nil, err
	}
	if !blow.Missed {
		err = s.strike(ctx, g, blow, before)
	}
	if a, ok := receive(answer); ok {
		blow.Migration = a.id
		if err == nil && refused(a.err) {
			err = fmt.Errorf("cannot begin a handoff of %s: %w", g.Name, a.err)
		}
	}
	if err == nil && blow.Missed && k.Point != "" {
		err = s.StopDaemon(unix.SIGKILL)
	}
	return blow, err
}

func receive(answer chan asked) (asked, bool) {
	select {
	case a := <-answer:
		return a, true
	case <-time.After(Limit):
		return asked{}, false
	}
}

// reach waits until the daemon stands at the place of the strike.
func (s *Stage) reach(ctx context.Context, g *Guest, k Strike, began time.Time, answer chan asked, blow *Blow) error {
	if k.Point == "" {
		time.Sleep(time.Until(began.Add(k.After)))
		s.daemon.signal(unix.SIGSTOP)
	}
	err := Eventually(ctx, "the daemon has come to "+k.String(), Limit, func() error {
		if s.daemon.stopped() || s.daemon.ended() {
			return nil
		}
		if blow.Missed = s.over(ctx, answer); blow.Missed {
			return nil
		}
		return errors.New("it runs")
	})
	if err != nil {
		return err
	}
	if s.daemon.ended() {
		return fmt.Errorf("the daemon has ended by itself: %w\n%s", s.daemon.err, s.DaemonLog(30))
	}
	return nil
}

// over tells whether the handoff that was asked for has ended, or was refused. The daemon may be stopped at any time, and not answer.
func (s *Stage) over(ctx context.Context, answer chan asked) bool {
	select {
	case known := <-answer:
		answer <- known
		ctx, cancel := context.WithTimeout(ctx, 20*lookEvery)
		defer cancel()
		m, err := s.Client.Migration(ctx, known.id, 0)
		return known.err != nil || err == nil && m.Phase.Ended()
	default:
		return false
	}
}

// strike strikes while the daemon stands still.
func (s *Stage) strike(ctx context.Context, g *Guest, blow *Blow, before record) error {
	now, err := s.lastRecord(g.Name)
	if err != nil {
		return err
	}
	blow.Phase = vmstate.Planned
	if now.seq != before.seq {
		blow.Phase = now.Phase
	}
	for _, q := range g.Living() {
		if q.Start >= blow.Source.Start && q.PID != blow.Source.PID {
			blow.Target = q
		}
	}
	if blow.Party == Daemon {
		return s.strikeDaemon(blow)
	}
	victim := blow.victim()
	if victim == nil || !victim.lives() {
		blow.Missed = true
		s.daemon.signal(unix.SIGCONT)
		return nil
	}
	if err := victim.strike(ctx, blow.Signal); err != nil {
		return err
	}
	if blow.And {
		if blow.Signal == unix.SIGSTOP {
			blow.hung = victim
		}
		return s.StopDaemon(unix.SIGKILL)
	}
	s.daemon.signal(unix.SIGCONT)
	if blow.Signal != unix.SIGSTOP {
		return nil
	}
	s.awaitDecision(ctx, g, cmp.Or(blow.Hang, hangLimit))
	return victim.signal(unix.SIGCONT)
}

func (s *Stage) strikeDaemon(blow *Blow) error {
	if blow.Signal == unix.SIGSTOP {
		time.Sleep(supervised)
		if blow.GoesOn {
			s.daemon.signal(unix.SIGCONT)
			return nil
		}
	}
	return s.StopDaemon(unix.SIGKILL)
}

// strike sends a signal and waits until it has had its effect.
func (q *QEMU) strike(ctx context.Context, sig unix.Signal) error {
	if err := q.signal(sig); err != nil {
		return err
	}
	return Eventually(ctx, fmt.Sprintf("process %d has felt %v", q.PID, sig), Limit, func() error {
		if !q.lives() || sig == unix.SIGSTOP && q.hangs() {
			return nil
		}
		return errors.New("it has not")
	})
}

// awaitDecision waits, not for ever, until the handoff of a guest is over.
func (s *Stage) awaitDecision(ctx context.Context, g *Guest, limit time.Duration) {
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		if list, err := s.Client.Migrations(ctx, g.Name); err == nil && len(list) > 0 && list[0].Phase.Ended() {
			return
		}
		time.Sleep(lookEvery)
	}
}

// record is a line of a guest's journal.
type record struct {
	seq       uint64
	Migration string        `json:"migration"`
	Phase     vmstate.Phase `json:"phase"`
}

// lastRecord is the newest line of a guest's journal; the zero record if there is none.
func (s *Stage) lastRecord(vm string) (record, error) {
	lines, err := journal.Read(filepath.Join(s.vms(), vm, "journal"))
	if err != nil && !errors.Is(err, journal.ErrTorn) {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return record{}, err
	}
	if len(lines) == 0 {
		return record{}, nil
	}
	last := lines[len(lines)-1]
	r := record{seq: last.Seq}
	return r, json.Unmarshal(last.Data, &r)
}

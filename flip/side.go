package flip

import (
	"context"
	"fmt"
	"time"

	"qlive/internal/qemu"
	"qlive/internal/qmp"
	"qlive/vmstate"
)

// deathLimit bounds how long a killed process may take to be gone. A QEMU that unmaps hundreds of GiB of small pages
// takes seconds; one in an uninterruptible sleep may take forever, and then a person is needed.
const deathLimit = 60 * time.Second

// Side is one of the two QEMUs of a handoff.
type Side struct {
	Process *qemu.Process
	Monitor *qmp.Client
	Binary  string
	Version string // from QMP
	Dir     string // folder of its generation
}

// ID names the side's process in the journal; it is zero for none.
func (s *Side) ID() ProcessID {
	if s == nil || s.Process == nil {
		return ProcessID{}
	}
	return ProcessID{PID: s.Process.PID(), StartTime: s.Process.ID().Start, Dir: s.Dir}
}

// Gone is closed once the process has ended.
func (s *Side) Gone() <-chan struct{} { return s.Process.Done() }

func (s *Side) ended() bool {
	select {
	case <-s.Gone():
		return true
	default:
		return false
	}
}

// died is the problem that a dead target makes, in its own words.
func (s *Side) died(when string) error {
	exit, _ := s.Process.Exited()
	e := &vmstate.Error{
		Kind: vmstate.QEMU, Detail: fmt.Sprintf("cannot hand over: the target QEMU %s %s %s", s.Version, exit, when),
		Remedy: "see QEMU's words and its log; the guest goes on in the source", Words: s.Process.Tail(qemu.Words),
	}
	explainLoad(e)
	return e
}

// kill ends the process and waits until its death has been seen.
func (s *Side) kill(ctx context.Context) error {
	if err := s.Process.Kill(); err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot kill QEMU with pid %d: %w", s.Process.PID(), err)
	}
	ctx, cancel := context.WithTimeout(ctx, deathLimit)
	defer cancel()
	select {
	case <-s.Gone():
		return nil
	case <-ctx.Done():
		return vmstate.Errorf(vmstate.Lost, "cannot see QEMU with pid %d dead %s after SIGKILL", s.Process.PID(), deathLimit).
			With("find out what it hangs in (cat /proc/PID/stack); nothing may run on its memory until it is gone")
	}
}

// unlessItEnds waits for something that this side has to do. A process that ends hangs up its monitor and the channel, so that the wait ends with
// it; nothing else is started to watch for that, since this is done while the guest stands.
func (s *Side) unlessItEnds(ctx context.Context, when string, wait func(context.Context) error) error {
	err := wait(ctx)
	if err != nil && ctx.Err() == nil && s.EndedSoon() { // when time is up, none is spent on the reason
		return s.died(when)
	}
	return err
}

// EndedSoon tells whether the process is dead or about to be seen dead: its monitor is closed a moment before its pidfd
// says so, how long before is for a busy machine to say. It waits a second at the most.
func (s *Side) EndedSoon() bool {
	select {
	case <-s.Gone():
		return true
	case <-time.After(time.Second):
		return false
	}
}

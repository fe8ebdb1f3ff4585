package flip

import (
	"context"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"qlive/flip/memory"
	"qlive/flip/recovery"
	"qlive/vmstate"
)

// Recovery is what is left of a handoff whose daemon has gone. The caller has found the processes and met their monitors, with a connection of
// its own: once QEMU answers on a new connection, nothing that was sent on an older one is still to come (see docs/decisions.md).
type Recovery struct {
	// Records are those of the VM's last migration, from its journal, in order; Times says when each was written, and may be nil.
	Records []Record
	Times   []time.Time
	// Migration is what is remembered of it besides; ID, VM, phases and processes are taken from the records where it does not say.
	Migration vmstate.Migration
	// Source and Target are the two processes; nil: it is gone, or never was. A Side without Monitor is alive and does not answer. Until the
	// target is recorded, in preparing, it is whatever QEMU has a folder of the VM and is not the source.
	Source, Target *Side
	Memory         *memory.Set // the guest's RAM, to see who else maps it; nil: it is not looked at
	// To is what the RAM was to be moved into, and Ledger the path of the ledger of what has been; nil and empty if it was to stay where it is.
	To         *memory.Set
	Ledger     string
	Journal    Recorder
	Publish    func(vmstate.Migration) // nil for none
	Failpoints Failpoints              // nil for none
	Gate       sync.Locker             // as in Config: nobody else lets the guest run meanwhile
	// AnswerLimit is how long a QEMU may take to say what it does before it counts as mute; 0 for 3 s. ContLimit is that of Config.
	AnswerLimit time.Duration
	ContLimit   time.Duration
	Log         zerolog.Logger
}

// Outcome is how a handoff ended that was taken up again.
type Outcome struct {
	Keeper    *Side             // who has the guest; nil: nobody, or nobody can say
	RunState  string            // what the keeper calls it; empty if it did not say
	Migration vmstate.Migration // as it has ended
	Undecided bool              // the target may have run, and may yet: nothing is let run until a person resolves it
	Err       error             // why it did not complete, or what is wrong beside
}

// Options says what can be chosen for a VM that nobody can decide of, and what that rests on.
type Options struct {
	Last     Record            `json:"last"` // record of the journal
	Evidence recovery.Evidence `json:"evidence"`
	Choices  []Option          `json:"choices"`
}

// Option is one choice of a person.
type Option struct {
	To      recovery.Choice `json:"to"`
	Allowed bool            `json:"allowed"`
	Why     string          `json:"why"` // what it would do, or why it cannot be done
}

// Recover brings a handoff that a daemon has left behind to its end, or to where a person must decide. Each thing that it does is in
// the journal before it is done; one that is cut short is taken up by the next one. A handoff that has ended is merely read, unless its end
// has left something undone: a source that must go, or what a person had decided as the daemon died.
func Recover(ctx context.Context, r Recovery) Outcome { return newRescue(r).run(ctx) }

// Resolve does what a person has decided of a handoff that has failed: the other QEMU is killed and seen dead first. What cannot be done is
// refused with an error of kind Conflict in Outcome.Err before anything is touched.
func Resolve(ctx context.Context, r Recovery, to recovery.Choice) Outcome {
	return newRescue(r).resolve(ctx, to)
}

// Look shows the evidence and what can be chosen, and touches nothing.
func Look(ctx context.Context, r Recovery) Options { return newRescue(r).options(ctx) }

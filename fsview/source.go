package fsview

import (
	"context"
	"time"

	"github.com/rs/zerolog"

	"qlive/vmstate"
)

// Source is what the tree shows and whom it tells of commands.
type Source interface {
	// Snapshot is the newest state. It never blocks and never returns nil.
	Snapshot() *vmstate.Snapshot
	// Subscribe opens a place in the stream of events after event number after; with 0 from now on, and
	// then an EventReset that carries a vmstate.State comes first.
	Subscribe(after uint64) vmstate.Subscription
	// Control gives a VM a command. It returns once the command has been accepted (nil) or refused (a
	// *vmstate.Error), and does not wait for its effect.
	Control(ctx context.Context, vm string, cmd Command, caller Caller) error
}

// Caller is the process that wrote a command, as the kernel tells it.
type Caller struct {
	UID uint32
	GID uint32
	PID uint32 // 0 if it is in a PID namespace that the daemon cannot see
}

// Options say how the tree is mounted. The zero value is a tree for the mounting user alone.
type Options struct {
	Logger zerolog.Logger
	// GID is the group that may write to ctl; 0 leaves that to the owner alone.
	GID int
	// AllowOther lets users other than the mounting one read the tree. ctl stays with its owner and group.
	AllowOther bool
	// MaxEventReaders bounds how often events can be open at once; one more is refused with EMFILE. 0
	// takes the default, 64.
	MaxEventReaders int
	// ControlTimeout bounds how long a write to ctl waits for the command to be accepted or refused; then
	// the context of Source.Control is cancelled. A signal does not end the wait, since a writer that is
	// told EINTR would write again. 0 takes the default, 10 seconds.
	ControlTimeout time.Duration

	clock func() time.Time // for tests; nil is the host's
}

const (
	defaultEventReaders   = 64
	defaultControlTimeout = 10 * time.Second
)

func (o Options) withDefaults() Options {
	if o.MaxEventReaders <= 0 {
		o.MaxEventReaders = defaultEventReaders
	}
	if o.ControlTimeout <= 0 {
		o.ControlTimeout = defaultControlTimeout
	}
	if o.clock == nil {
		o.clock = time.Now
	}
	return o
}

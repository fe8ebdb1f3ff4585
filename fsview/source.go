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
	// Lull is nil, or what is closed when readers may go on, which is within milliseconds, whatever any QEMU does: while a guest stands in its
	// handoff the processors are for its QEMUs.
	Lull() <-chan struct{}
	// Look makes the next snapshot say whether the file of the VM's binary has been replaced by now. It never waits for QEMU.
	Look(vm string)
	// Subscribe opens a place in the stream of events after event number after; with 0 from now on, and
	// then an EventReset that carries a vmstate.State comes first.
	Subscribe(after uint64) vmstate.Subscription
	// Control gives a VM a command. It returns once the command has been accepted (nil) or refused (a
	// *vmstate.Error), and does not wait for its effect.
	Control(ctx context.Context, vm string, cmd Command, caller Caller) error
}

// Options say how the tree is mounted. The zero value is a tree for the mounting user alone.
type Options struct {
	Logger zerolog.Logger
	// Trust says what each user may do: its group may read and write to ctl, others read where it lets them. The own user is always the
	// mounting one.
	Trust vmstate.Trust
	// AllowOther lets users other than the mounting one in at all, root included; what they may do is Trust's.
	AllowOther bool
	// MaxEventReaders bounds how often events can be open at once, MaxEventReadersPerUser how often by one user; one more is refused with
	// EMFILE. Root and the mounting user have as many places again, of their own. 0 takes the defaults, 128 and 32.
	MaxEventReaders        int
	MaxEventReadersPerUser int
	// ControlTimeout bounds how long a write to ctl waits for the command to be accepted or refused; then
	// the context of Source.Control is cancelled. A signal does not end the wait, since a writer that is
	// told EINTR would write again. 0 takes the default, 10 seconds.
	ControlTimeout time.Duration

	clock func() time.Time // for tests; nil is the host's
}

const (
	defaultEventReaders        = 128
	defaultEventReadersPerUser = 32
	defaultControlTimeout      = 10 * time.Second
)

func (o Options) withDefaults() Options {
	if o.MaxEventReaders <= 0 {
		o.MaxEventReaders = defaultEventReaders
	}
	if o.MaxEventReadersPerUser <= 0 {
		o.MaxEventReadersPerUser = defaultEventReadersPerUser
	}
	if o.ControlTimeout <= 0 {
		o.ControlTimeout = defaultControlTimeout
	}
	if o.clock == nil {
		o.clock = time.Now
	}
	return o
}

package restapi

import (
	"context"
	"net/http"

	"qlive/vmstate"
)

// Removal says how a VM is to go.
type Removal string

// The ways to remove a VM.
const (
	RemovePowerdown Removal = "powerdown" // ask the guest to power off; it goes when it has
	RemoveKill      Removal = "kill"      // end QEMU now
	RemoveForget    Removal = "forget"    // let go of it: QEMU and the guest run on
)

// Service is what the API serves: the daemon, as far as REST sees it.
//
// Errors that a caller should read are a [vmstate.Error]; any other is shown as an internal error.
// Every method may be called by many goroutines at once.
type Service interface {
	// Snapshot is all there is to read. It never waits and is never nil.
	Snapshot() *vmstate.Snapshot
	// Look makes the next snapshot say whether the file of the VM's binary has been replaced by now; with no name, of all VMs.
	Look(vm string)
	// Subscribe gives the events after number after. If they are no longer there, or after is 0, the first event is
	// an EventReset with the whole vmstate.State and the number that it stands for.
	Subscribe(after uint64) vmstate.Subscription

	// StartVM returns when QEMU runs and answers. With spec.Adopt it takes over one that runs; with Adopt.DryRun it changes nothing, and the
	// VM that it returns is what would become of the QEMU.
	StartVM(ctx context.Context, spec vmstate.VMSpec) (vmstate.VM, error)
	// StartStoppedVM starts a VM that has stopped from its definition, and returns when QEMU runs and answers.
	StartStoppedVM(ctx context.Context, name string) (vmstate.VM, error)
	// RemoveVM with RemovePowerdown returns when the guest has been asked, with RemoveKill when QEMU is gone, with RemoveForget when qlive has
	// let go of it.
	RemoveVM(ctx context.Context, name string, how Removal) error
	// PauseVM, ResumeVM and ResetVM return when QEMU has done it, PowerdownVM when the guest has been asked.
	PauseVM(ctx context.Context, name string) (vmstate.VM, error)
	ResumeVM(ctx context.Context, name string) (vmstate.VM, error)
	ResetVM(ctx context.Context, name string) (vmstate.VM, error)
	PowerdownVM(ctx context.Context, name string) (vmstate.VM, error)
	// KillVM returns when QEMU is gone; the VM stays, stopped.
	KillVM(ctx context.Context, name string) (vmstate.VM, error)
	// Undecided tells what is known of a VM whose last handoff has failed, and what can be decided of it.
	Undecided(ctx context.Context, name string) (vmstate.Decision, error)
	// ResolveVM does what a person has decided: to is a choice's.
	ResolveVM(ctx context.Context, name, to string) (vmstate.VM, error)
	// Console types input on the guest's console.
	Console(vm string, input []byte) error

	// Migrate accepts a migration, in phase planned; it runs on by itself, whatever becomes of ctx.
	Migrate(ctx context.Context, spec vmstate.MigrationSpec) (vmstate.Migration, error)
	// RollbackVM accepts a migration to the binary that the VM came from.
	RollbackVM(ctx context.Context, name string) (vmstate.Migration, error)
	// ContinueMigration lets a migration that holds in prepared go on.
	ContinueMigration(ctx context.Context, id string) (vmstate.Migration, error)
	// CancelMigration asks for the end of a migration that has not begun to switch.
	CancelMigration(ctx context.Context, id string) (vmstate.Migration, error)
	// Trace is where the time of a migration went, as JSON in Chrome's trace format.
	Trace(id string) ([]byte, error)

	// Metrics serves Prometheus.
	Metrics() http.Handler
}

package vmstate

import (
	"cmp"
	"regexp"
	"slices"
	"time"
)

// Status is what a VM does, as its operator sees it.
type Status string

// The statuses of a VM.
const (
	Running   Status = "running"
	Paused    Status = "paused"
	Migrating Status = "migrating" // a handoff is between switching and committed
	Stopped   Status = "stopped"   // its QEMU has ended
	Broken    Status = "failed"    // a person is needed
	Starting  Status = "starting"
)

// VM is a guest under qlive's care.
type VM struct {
	Name       string    `json:"name"`
	Status     Status    `json:"status"`
	RunState   string    `json:"run_state" doc:"QEMU's own word for it, such as running, paused, prelaunch, io-error"`
	PID        int       `json:"pid" doc:"of the QEMU that has the guest; 0 if none"`
	Generation int       `json:"generation" doc:"handoffs completed since the VM was started"`
	StartedAt  time.Time `json:"started_at"`
	UptimeS    int64     `json:"uptime_s"`
	Machine    string    `json:"machine"`
	QEMU       QEMUInfo  `json:"qemu"`
	RAMBytes   uint64    `json:"ram_bytes"`
	Regions    []Region  `json:"regions"`
	Migration  string    `json:"migration,omitempty" doc:"id of the current or last migration"`
	Warnings   []string  `json:"warnings,omitempty"`
	// Restart and Autostart are as asked for; see [VMSpec].
	Restart   RestartPolicy `json:"restart" doc:"what happens when QEMU fails: never, on-failure"`
	Autostart bool          `json:"autostart" doc:"start it when the daemon starts after a boot of the host"`
	Restarts  int           `json:"restarts" doc:"how often qlive has started it anew by itself since somebody last did"`
	RestartAt *time.Time    `json:"restart_at,omitempty" doc:"when it will be started anew; the status is starting meanwhile"`
	Error     *Problem      `json:"error,omitempty" doc:"why the VM stopped or failed"`
	Argv      []Arg         `json:"argv,omitempty" doc:"what was run, and why it differs from what was asked"`
	// Adoption is what was found of a QEMU that qlive did not start, as long as that one has the guest.
	Adoption   *Adoption `json:"adoption,omitempty" doc:"what was found of the QEMU, if qlive did not start it"`
	ConsoleLog []string  `json:"-"` // files that hold the console's text, oldest generation first
	QEMULog    []string  `json:"-"` // files that hold QEMU's stderr, oldest generation first
}

// Arg is one argument of the QEMU command line that was run.
type Arg struct {
	Value string `json:"value"`
	Was   string `json:"was,omitempty" doc:"what the user wrote, where it was changed"`
	Why   string `json:"why,omitempty" doc:"why it was added, changed or dropped"`
	// Dropped: the user wrote Was, and QEMU does not get it.
	Dropped bool `json:"dropped,omitempty"`
}

// QEMUInfo is the QEMU that has a guest.
type QEMUInfo struct {
	Binary   string `json:"binary"`
	Version  string `json:"version" doc:"as QMP tells it, such as 10.0.2"`
	Package  string `json:"package,omitempty" doc:"the distribution's name of the build"`
	Outdated bool   `json:"outdated" doc:"the file at the binary's path is no longer the one that runs"`
}

// VMSpec asks for a VM to be started.
type VMSpec struct {
	Name   string     `json:"name" doc:"[a-z0-9][a-z0-9._-]{0,62}"`
	Binary string     `json:"binary,omitempty" doc:"absolute path of a QEMU; not with adopt"`
	Args   []string   `json:"args,omitempty" doc:"QEMU's arguments, as one would write them without qlive; not with adopt"`
	Memory MemorySpec `json:"memory,omitzero"`
	// Dir is the working directory for relative paths in Args; the daemon's own if empty.
	Dir string `json:"dir,omitempty" doc:"absolute path that relative paths in args start from"`
	// Limits hold for all of the VM's QEMUs together.
	Limits    Limits        `json:"limits,omitzero"`
	Restart   RestartPolicy `json:"restart,omitempty" enum:"never,on-failure" doc:"on-failure: start it anew when its QEMU fails; the default is never"`
	Autostart bool          `json:"autostart,omitempty" doc:"start it when the daemon starts after a boot of the host"`
	// Adopt: a QEMU that runs already is to become this VM, instead of one that is started.
	Adopt *AdoptSpec `json:"adopt,omitempty" doc:"take over a QEMU that runs, instead of starting one"`
}

// RestartPolicy says what becomes of a VM whose QEMU has ended without its guest having powered off.
type RestartPolicy string

// The policies.
const (
	RestartNever     RestartPolicy = "never"
	RestartOnFailure RestartPolicy = "on-failure" // start it anew, a little later each time, and not for ever
)

// OrNever is p, or the default where nothing was said.
func (p RestartPolicy) OrNever() RestartPolicy { return cmp.Or(p, RestartNever) }

// Check refuses what is no policy.
func (p RestartPolicy) Check() error {
	switch p {
	case "", RestartNever, RestartOnFailure:
		return nil
	}
	return Errorf(Invalid, "cannot restart %q", p).With("write never or on-failure")
}

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// reservedNames are entries of the tree's root.
func reservedNames() []string {
	return []string{"migrations", "version", "health", "events", "abi"}
}

// CheckName tells whether a VM may be called name.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return Errorf(Invalid, "cannot call a VM %q", name).
			With("use 1 to 63 of a-z, 0-9, dot, underscore and dash, starting with a letter or a digit")
	}
	if slices.Contains(reservedNames(), name) {
		return Errorf(Invalid, "cannot call a VM %q: the tree has an entry of that name", name).With("choose another name")
	}
	return nil
}

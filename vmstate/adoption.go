package vmstate

// AdoptSpec names a QEMU that runs already and that qlive did not start. One of PID and QMP will do.
type AdoptSpec struct {
	PID int    `json:"pid,omitempty" minimum:"0" doc:"of the QEMU; found by qmp if absent"`
	QMP string `json:"qmp,omitempty" doc:"absolute path of its QMP socket; found by the command line if absent"`
	// DryRun looks, and takes over nothing.
	DryRun bool `json:"dry_run,omitempty" doc:"look and report, and leave the QEMU alone"`
	// AllowPostcopy is the consent to what mode postcopy risks.
	AllowPostcopy bool `json:"allow_postcopy,omitempty" doc:"let mode auto choose postcopy for a guest whose RAM is private to its QEMU: between the switch and the end neither QEMU alone has all of the guest"`
}

// Adoption is what was found of a QEMU that qlive did not start, and what that means for handing its guest over.
type Adoption struct {
	PID        int      `json:"pid"`
	StartTime  uint64   `json:"start_time" doc:"of the process, in hundredths of a second since the host's boot"`
	Binary     string   `json:"binary"`
	Version    string   `json:"version"`
	Machine    string   `json:"machine"`
	RunState   string   `json:"run_state"`
	Monitor    string   `json:"monitor" doc:"path of the QMP socket that qlive uses"`
	Dir        string   `json:"dir" doc:"working directory"`
	UID        int      `json:"uid"`
	Cgroup     string   `json:"cgroup"`
	Namespaces []string `json:"namespaces" doc:"kinds in which it is not where the daemon is"`
	CPUs       string   `json:"cpus" doc:"host CPUs that it may use"`
	EnvNames   []string `json:"env_names" doc:"names of its environment's variables; the values may be secrets"`
	AdoptedAt  string   `json:"adopted_at,omitempty"`

	Regions     []AdoptedRegion  `json:"regions"`
	Mode        Mode             `json:"mode" doc:"how the first handoff moves the guest: shared, postcopy, precopy, or none"`
	Why         string           `json:"why"`
	NeedsAssent bool             `json:"needs_assent" doc:"mode auto refuses: postcopy has to be asked for by name, or allowed, precopy to be asked for by name"`
	Interrupted []string         `json:"interrupted" doc:"what a handoff interrupts, beside the guest's pause"`
	Obstacles   []Obstacle       `json:"obstacles" doc:"what stands in the way of a handoff"`
	Descriptors []HeldDescriptor `json:"descriptors"`
	PeakBytes   uint64           `json:"peak_bytes" doc:"memory that the host needs at the peak of the first handoff beyond what is used now; an estimate"`
	PauseMS     int64            `json:"pause_ms" doc:"estimate"`
	DurationMS  int64            `json:"duration_ms" doc:"estimate, from the order to the end of the first handoff"`
}

// ModeNone is no way to hand a region over.
const ModeNone Mode = "none"

// AdoptedRegion is a block of guest RAM of such a QEMU.
type AdoptedRegion struct {
	Name      string  `json:"name"`
	Object    string  `json:"object" doc:"id of the memory backend on the target's command line"`
	SizeBytes uint64  `json:"size_bytes"`
	PageBytes uint64  `json:"page_bytes"`
	Backing   Backing `json:"backing"`
	Path      string  `json:"path,omitempty" doc:"of the file, as the kernel writes it"`
	Inode     uint64  `json:"inode,omitempty"`
	Mode      Mode    `json:"mode" doc:"what it leads to: shared, postcopy, precopy or none"`
	Why       string  `json:"why"`
	// Ignored: QEMU's own migration leaves it out (x-ignore-shared), so that the ways stop_first and live are open as well.
	Ignored bool `json:"ignored"`
}

// Obstacle stands in the way of a handoff.
type Obstacle struct {
	What   string `json:"what"`
	Remedy string `json:"remedy,omitempty"`
	// Lasting: only a new start of the guest can clear it away.
	Lasting bool `json:"lasting"`
}

// HeldDescriptor is something that a QEMU has open and that another one cannot simply have as well.
type HeldDescriptor struct {
	FD   int      `json:"fd"`
	Kind HeldKind `json:"kind"`
	Name string   `json:"name" doc:"of the interface, the address, the file or the device"`
}

// HeldKind says what a descriptor is.
type HeldKind string

// The kinds of descriptors.
const (
	HeldTap       HeldKind = "tap"
	HeldListening HeldKind = "listening"
	HeldImage     HeldKind = "image"
	HeldDevice    HeldKind = "device"
)

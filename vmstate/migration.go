package vmstate

import "time"

// Mode says how guest RAM gets into the target.
type Mode string

// The modes.
const (
	ModeAuto     Mode = "auto"     // the first that can work without new risk
	ModeShared   Mode = "shared"   // RAM is qlive's: both QEMUs map it, nothing is copied
	ModeCPR      Mode = "cpr"      // QEMU's cpr-transfer: the source gives the target the descriptors of all RAM
	ModePostcopy Mode = "postcopy" // RAM is private to the source: the guest runs in the target while its pages follow, each freed behind
	ModePrecopy  Mode = "precopy"  // a plain copy of all RAM while the guest runs, which needs room for all of it; only when asked for by name
)

// Way says how the running guest is switched over. It can be chosen in mode shared alone.
type Way string

// The ways to switch.
const (
	WayAuto        Way = "auto"
	WayDeviceState Way = "device_state" // save the device state alone; the rest was sent while the guest ran
	WayStopFirst   Way = "stop_first"   // stop, then QEMU's migrate
	WayLive        Way = "live"         // QEMU's migrate, which stops the guest itself
)

// Ways are the ways that can be asked for by name.
func Ways() []Way { return []Way{WayDeviceState, WayStopFirst, WayLive} }

// MigrationSpec asks for a handoff.
type MigrationSpec struct {
	VM         string `json:"vm" doc:"name of the VM"`
	Binary     string `json:"binary,omitempty" doc:"absolute path of the target QEMU; the VM's own binary if empty"`
	Mode       Mode   `json:"mode,omitempty" enum:"auto,shared,cpr,postcopy,precopy" doc:"how RAM gets there"`
	Way        Way    `json:"way,omitempty" enum:"auto,device_state,stop_first,live" doc:"how the guest is switched over"`
	Hold       bool   `json:"hold,omitempty" doc:"wait in prepared until POST /migrations/{id}/continue"`
	TimeoutS   int    `json:"timeout_s,omitempty" minimum:"0" maximum:"86400" doc:"seconds until a handoff that has not switched is undone; 0 takes the default, 60, in mode precopy one more for each 64 MiB of RAM, or 86400 with hold"`
	MaxPauseMS int    `json:"max_pause_ms,omitempty" minimum:"0" maximum:"3600000" doc:"pause in ms at which the undo begins; 0 takes the default, 1000"`
	// Key is what the caller knows the request by, if he wants to be able to ask again.
	Key      RequestKey  `json:"-"`
	Memory   *MemorySpec `json:"memory,omitempty" doc:"what guest RAM shall be made of from now on; it stays as it is if left out. The guest stands while it is copied, for as long as the estimate says, which max_pause_ms must allow"`
	Populate string      `json:"populate,omitempty" enum:"auto,never" doc:"fill the target's page tables beforehand, of regions without holes"`
}

// RequestKey names a request for good: whoever asks with the same key again gets what came of it the first time.
type RequestKey struct {
	Key  string `json:"key"`
	Body string `json:"body"` // what was asked for
}

// Defaults of a MigrationSpec.
const (
	DefaultTimeoutS   = 60
	DefaultHoldS      = 86400 // with hold: somebody means to look
	DefaultMaxPauseMS = 1000
)

// copySlowest is what a copy of RAM is expected to do at the least, bytes/s, with all that is sent again.
const copySlowest = 64 << 20

// Timeout is how long, in seconds, a handoff may take that does not say it, of a guest with so much RAM.
func (s MigrationSpec) Timeout(ramBytes uint64) int {
	switch {
	case s.TimeoutS != 0:
		return s.TimeoutS
	case s.Hold:
		return DefaultHoldS
	case s.Mode == ModePrecopy:
		return DefaultTimeoutS + int(ramBytes/copySlowest)
	}
	return DefaultTimeoutS
}

// Migration is one handoff of one VM.
type Migration struct {
	ID         string         `json:"id"`
	VM         string         `json:"vm"`
	Mode       Mode           `json:"mode"`
	Way        Way            `json:"way"`
	Phase      Phase          `json:"phase"`
	Progress   int            `json:"progress" doc:"0 to 100, over all regions"`
	From       QEMUProcess    `json:"from"`
	To         QEMUProcess    `json:"to"`
	StartedAt  time.Time      `json:"started_at"`
	EndedAt    *time.Time     `json:"ended_at,omitempty"`
	PauseUS    *int64         `json:"pause_us" doc:"from sending stop to the reply of cont, µs; of a handoff that was undone, to the source's reply of cont; null if the guest never stopped"`
	QEMUPause  *int64         `json:"qemu_pause_us" doc:"QEMU's own STOP to RESUME, µs"`
	UndoUS     *int64         `json:"undo_us,omitempty" doc:"from the decision to undo until the guest went on, µs"`
	EstimateUS *int64         `json:"pause_estimate_us,omitempty" doc:"how long the guest was expected to stand while its RAM is copied into another backing, µs"`
	TotalUS    int64          `json:"total_us"`
	Phases     []PhaseTime    `json:"phases"`
	Regions    []Region       `json:"regions"`
	Copy       *Copy          `json:"copy,omitempty" doc:"mode precopy: how far the copy is"`
	ExtraBytes uint64         `json:"extra_bytes" doc:"memory held beyond the guest's RAM and the source, at the peak: the target's own, and in mode precopy the copy"`
	Warnings   []string       `json:"warnings"`
	Log        []LogLine      `json:"log"`
	Error      *Problem       `json:"error"`
	Spec       *MigrationSpec `json:"spec,omitempty"`
}

// Copy is how far QEMU's copy of a guest's RAM is, in mode precopy. It is sent once, and what the guest has changed meanwhile again and again, until what
// remains can be sent in the pause that is allowed.
type Copy struct {
	Rounds           int64  `json:"rounds" doc:"the round that it is in: the first sends all, each later one what has changed"`
	SentBytes        uint64 `json:"sent_bytes"`
	RemainingBytes   uint64 `json:"remaining_bytes" doc:"of this round"`
	BytesPerS        uint64 `json:"bytes_per_s" doc:"that are sent"`
	ChangedBytesPerS uint64 `json:"changed_bytes_per_s" doc:"pages that the guest changes"`
	AllowedMS        int64  `json:"allowed_ms" doc:"pause that the copy aims at: it grows, up to half of max_pause_ms, if the guest changes its memory faster than it is sent"`
}

// QEMUProcess is one side of a handoff.
type QEMUProcess struct {
	Binary  string `json:"binary"`
	Version string `json:"version"`
	PID     int    `json:"pid"`
}

// PhaseTime says when a phase began and how long it took so far.
type PhaseTime struct {
	Phase Phase     `json:"phase"`
	At    time.Time `json:"at"`
	US    int64     `json:"us"`
}

// LogLine is something that happened in a handoff.
type LogLine struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Snapshot is everything qlive knows at one instant. It is never changed after it has been published.
type Snapshot struct {
	Seq        uint64 // number of the last event that it contains
	At         time.Time
	Version    string
	Health     Health
	VMs        []VM        // by name
	Migrations []Migration // newest first
}

// VM finds a VM by name.
func (s *Snapshot) VM(name string) (VM, bool) {
	for _, vm := range s.VMs {
		if vm.Name == name {
			return vm, true
		}
	}
	return VM{}, false
}

// Migration finds a migration by id.
func (s *Snapshot) Migration(id string) (Migration, bool) {
	for _, m := range s.Migrations {
		if m.ID == id {
			return m, true
		}
	}
	return Migration{}, false
}

// Health is how the daemon itself is.
type Health struct {
	Ready    bool      `json:"ready"`
	Degraded bool      `json:"degraded"`
	Problems []Problem `json:"problems,omitempty"`
}

// EventType says what an event is about.
type EventType string

// The types of events.
const (
	EventVM        EventType = "vm"
	EventRegion    EventType = "region"
	EventMigration EventType = "migration"
	EventHealth    EventType = "health"
	EventReset     EventType = "reset" // the listener's place is gone: here is the whole state
	EventLost      EventType = "lost"  // the listener was too slow and is cut off
)

// Event is one change. Numbers rise by one and never repeat in the life of a run directory.
type Event struct {
	Seq       uint64    `json:"seq"`
	At        time.Time `json:"at"`
	Type      EventType `json:"type"`
	VM        string    `json:"vm,omitempty"`
	Migration string    `json:"migration,omitempty"`
	Data      any       `json:"data,omitempty"` // VM, Region, Migration, Health or State as it is after the change
	Deleted   bool      `json:"deleted,omitempty"`
}

// State is the whole state as an event carries it.
type State struct {
	Version    string      `json:"version"`
	Health     Health      `json:"health"`
	VMs        []VM        `json:"vms"`
	Migrations []Migration `json:"migrations"`
}

// Subscription is a place in the stream of events. Events is closed after the last event; a listener that
// falls too far behind gets an EventLost as its last.
type Subscription struct {
	Events <-chan Event
	Close  func()
}

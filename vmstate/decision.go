package vmstate

// Decision is what a person has to decide of a VM whose handoff has failed, and what that can rest on.
type Decision struct {
	VM        string   `json:"vm"`
	Migration string   `json:"migration"`
	Error     *Problem `json:"error" doc:"why the handoff failed"`
	Source    Witness  `json:"source"`
	Target    Witness  `json:"target"`
	Stranger  bool     `json:"stranger" doc:"a process that is neither of the two maps the guest's RAM"`
	Choices   []Choice `json:"choices"`
}

// Witness is one of the two QEMUs, as it is seen now.
type Witness struct {
	PID     int    `json:"pid"`
	Seen    string `json:"seen" enum:"absent,dead,mute,runs,stands,moving,loading,ended" doc:"mute: alive, and does not answer its monitor; moving: in a migration of QEMU's own; loading: has never run; ended: the guest itself has stopped"`
	Binary  string `json:"binary,omitempty"`
	Version string `json:"version,omitempty"`
	Log     string `json:"log,omitempty" doc:"file of its output"`
}

// Choice is one thing that can be decided.
type Choice struct {
	To      string `json:"to" enum:"source,target,discard"`
	Allowed bool   `json:"allowed"`
	Why     string `json:"why" doc:"what it does, or why it cannot be done"`
}

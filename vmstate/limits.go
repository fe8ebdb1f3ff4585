package vmstate

// Limits bound what all QEMUs of a VM together take from the host: one as a rule, two during a handoff. Zero is no limit.
type Limits struct {
	// MemoryBytes counts guest RAM (unless it is of huge pages), whichever QEMU has touched it, and what each QEMU needs itself.
	MemoryBytes uint64 `json:"memory_bytes,omitempty" doc:"the cgroup's memory.max: guest RAM but for huge pages, and what its QEMUs need, of which there are two during a handoff"`
	CPUPercent  int    `json:"cpu_percent,omitempty" doc:"the cgroup's cpu.max: 150 is one and a half CPUs"`
	Processes   int    `json:"processes,omitempty" doc:"the cgroup's pids.max: processes and threads"`
	OOMScoreAdj int    `json:"oom_score_adj,omitempty" doc:"how willingly the kernel kills the QEMU that has the guest when memory runs out, -1000 to 1000; one that waits for the guest has 1000"`
}

// None tells whether no limit needs a cgroup.
func (l Limits) None() bool { return l.MemoryBytes == 0 && l.CPUPercent == 0 && l.Processes == 0 }

// Check refuses what no kernel would take.
func (l Limits) Check() error {
	switch {
	case l.CPUPercent < 0:
		return Errorf(Invalid, "cannot limit a VM to %d percent of a CPU", l.CPUPercent).With("write 1 or more, or leave cpu_percent out")
	case l.Processes < 0:
		return Errorf(Invalid, "cannot limit a VM to %d processes", l.Processes).With("write 1 or more, or leave processes out")
	case l.OOMScoreAdj < -1000 || l.OOMScoreAdj > 1000:
		return Errorf(Invalid, "cannot set oom_score_adj to %d", l.OOMScoreAdj).With("write a number from -1000 to 1000")
	}
	return nil
}

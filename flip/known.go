package flip

import (
	"strings"

	"qlive/vmstate"
)

// known is something that QEMUs say when they cannot take a guest over, and what to do about it.
type known struct {
	says   string // in one of QEMU's lines
	remedy string
}

// knownCauses is the table of them: what is more special comes first.
func knownCauses() []known {
	return []known{
		// hw/virtio/virtio.c: 10.0.13 sets every queue of a device that it makes or resets to VIRTQUEUE_MAX_SIZE, 11.1 loads no more entries than
		// it has itself. The size is in the stream and stays with the guest through all other versions.
		{"exceeds allocated max", "a virtio device of the guest was made or reset by a QEMU that gives its queues more entries than the target allows, " +
			"as 10.0.13 does and 11.1 and later do not take: leave the guest where it is, or hand it to a QEMU before 11.1; " +
			"to get further, hand it to another QEMU than 10.0.13 first and restart the guest there"},
		{"error while loading state", "the target cannot load a device as the guest has it, which QEMU names: choose another version of QEMU, or restart the guest there"},
		{"Unknown savevm section", "the target lacks a device that the guest has, which QEMU names: it must make the same machine"},
		{"load of migration failed", "the target cannot load the guest's state: choose another version of QEMU"},
	}
}

// explainLoad makes of the end of a target what its last words say, if they are known: it cannot take this guest over.
func explainLoad(e *vmstate.Error) {
	for _, k := range knownCauses() {
		for _, line := range e.Words {
			if strings.Contains(line, k.says) {
				e.Kind, e.Remedy = vmstate.Incompatible, k.remedy
				return
			}
		}
	}
}

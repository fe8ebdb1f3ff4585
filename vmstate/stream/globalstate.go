package stream

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// The section that carries the guest's run state. Its payload is be32, the length of the name with its
// NUL, and 100 bytes, of which the name has 32, padded with NULs. (Up to 8.1 it had all of them.)
const (
	globalStateName    = "globalstate"
	globalStateVersion = 1
	globalStateBytes   = 4 + 100
	runStateBytes      = 32
)

// savedRunState is what xen-save-devices-state writes, whatever the guest's run state is.
const savedRunState = "running"

// RunStates are the run states that a loading QEMU accepts: any other makes it abort or fail. A
// guest that arrives "running" or "paused" in a QEMU started with -S is paused there.
func RunStates() []string {
	return []string{
		"running", "paused", "prelaunch", "suspended", "shutdown", "io-error", "internal-error",
		"watchdog", "guest-panicked", "postmigrate",
	}
}

// RunState is the run state that the stream hands over; ok is false if it has none.
func (s *Stream) RunState() (name string, ok bool) {
	at, err := globalState(s.b, s.Devices())
	if err != nil {
		return "", false
	}
	field := s.b[at+4 : at+4+runStateBytes]
	name, _, ok = strings.Cut(string(field), "\x00")
	return name, ok
}

// globalState is where the payload of the section lies.
func globalState(b []byte, devices []Section) (at int, err error) {
	for i := len(devices) - 1; i >= 0; i-- {
		s := &devices[i]
		if s.Name != globalStateName || s.Instance != 0 {
			continue
		}
		if s.Version != globalStateVersion || s.Payload.Len() != globalStateBytes {
			return 0, fmt.Errorf("cannot find the run state: %s has %d bytes, known is version %d with %d",
				s, s.Payload.Len(), globalStateVersion, globalStateBytes)
		}
		return s.Payload.Start, nil
	}
	return 0, fmt.Errorf("cannot find the run state: the devices' state has no section %q; leave the run state as it is", globalStateName)
}

// checkRunState refuses a name that would make the target fail while the guest stands.
func checkRunState(name string) error {
	if !slices.Contains(RunStates(), name) {
		return fmt.Errorf("cannot hand a guest over as %q: a loading QEMU takes %s", name, strings.Join(RunStates(), ", "))
	}
	return nil
}

// setRunState writes the name into a payload of the section.
func setRunState(payload []byte, name string) {
	binary.BigEndian.PutUint32(payload, uint32(len(name)+1))
	field := payload[4 : 4+runStateBytes]
	clear(field[copy(field, name):])
}

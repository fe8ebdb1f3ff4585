package qmp_test

import (
	"bytes"
	"os"
	"testing"
	"time"

	"qlive/internal/qmp"
)

// QEMU says RESUME before it lets the first vCPU go on, and what it has said is read after its death: of a QEMU that is killed after cont, guest RAM is
// untouched unless its monitor says RESUME. That is how a target that dies as it is told to run is known never to have run.
func TestDeadWithoutResumeNeverRan(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		silent, resumed, changed := 0, 0, 0
		for delay := range 12 {
			ram := guestRAM(t)
			q := start(t, version, ram)
			before := content(t, ram)
			events := q.Subscribe(qmp.EventResume)
			if _, err := q.Start(within(t, patience), "cont", nil); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(time.Duration(delay) * 40 * time.Microsecond); time.Now().Before(end); { // a sleep would be longer
			}
			if err := q.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			wait(t, q.exited, "QEMU to die")
			wait(t, q.Done(), "the end of its monitor")
			_, err := events.Next(within(t, patience))
			moved := !bytes.Equal(before, content(t, ram))
			switch {
			case err == nil:
				resumed++
			case moved:
				t.Errorf("killed %d µs after cont, QEMU has not said RESUME, and guest RAM has changed", delay*40)
			default:
				silent++
			}
			if moved {
				changed++
			}
		}
		t.Logf("of 12 QEMUs %d died without RESUME, %d with; the guest's RAM had changed in %d", silent, resumed, changed)
	})
}

// content is all of the guest's RAM.
func content(t *testing.T, ram *os.File) []byte {
	t.Helper()
	data := make([]byte, ramBytes)
	if _, err := ram.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return data
}

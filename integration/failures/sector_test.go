package failures_test

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"qlive/integration/lab"
	"qlive/restapi/client"
	"qlive/vmstate"
)

// sector is the machine code of testdata/sector.s: a guest of 512 bytes that starts at once and does at once what it is told.
func sector() []byte {
	image := make([]byte, 1<<20) // firmware does not start from a disk of a single sector
	copy(image, []byte{
		0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xb0, 0x42, 0xeb, 0x0c, // _start
		0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf8, 0xba, 0xf8, 0x03, 0xec, // next
		0xba, 0xf8, 0x03, 0xee, 0x3c, 0x64, 0x74, 0x38, 0xba, 0x04, 0x06, 0xbb, 0x00, 0x20, 0x3c, 0x70, 0x74, 0x24, 0xbb, 0x00, 0x24, 0x3c, 0x73, 0x74, 0x1d, 0xba, 0xf9, 0x0c, 0xb3, 0x06, 0x3c, 0x72, 0x74, 0x19, 0xba, 0x05, 0x05, 0xb3, 0x01, 0x3c, 0x50, 0x74, 0x10, 0xba, 0x43, 0x04, 0xb3, 0x0f, 0x3c, 0x77, 0x74, 0x07, 0xeb, 0xbe, // say
		0x89, 0xd8, 0xef, 0xeb, 0xb9, // word
		0x88, 0xd8, 0xee, 0xeb, 0xb4, // byte
		0xb8, 0x01, 0x02, 0xb9, 0x0a, 0x00, 0xba, 0x80, 0x00, 0xbb, 0x00, 0x7e, 0xcd, 0x13, 0xeb, 0xa4, // disk
	})
	image[510], image[511] = 0x55, 0xaa
	return image
}

// startSector starts the guest of one sector as the scene's, and waits until it listens.
func (s *scene) startSector(t *testing.T, name string, args ...string) {
	t.Helper()
	s.startSectorOn(t, name, "%s", args...)
}

// badDisk is a disk that cannot read sector 9 of a file.
const badDisk = `{"driver":"blkdebug","image":%s,"inject-error":[{"event":"none","iotype":"read","errno":5,"sector":9}]}`

// startSectorOn lets it start from a disk that stands on its image in some way.
func (s *scene) startSectorOn(t *testing.T, name, on string, args ...string) {
	t.Helper()
	image := s.bin + "/sector.img"
	if err := os.WriteFile(image, sector(), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := `{"driver":"raw","node-name":"disk","read-only":true,"file":` + fmt.Sprintf(on, `{"driver":"file","filename":"`+image+`"}`) + `}`
	s.vm = s.Start(lab.Spec{Name: name, Bare: true, Args: append(slices.Clone(args),
		"-blockdev", disk, "-device", "virtio-blk-pci,drive=disk,rerror=stop,werror=stop")})
	s.sector = true
	s.awaitStarts(t, 1)
}

// said is all that the guest has said.
func (s *scene) said(t *testing.T) string {
	t.Helper()
	r, err := s.Client.Console(t.Context(), s.vm.Name, client.Tail{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// starts is how often the guest of one sector has started.
func (s *scene) starts(t *testing.T) int {
	t.Helper()
	return strings.Count(s.said(t), "B")
}

func (s *scene) awaitStarts(t *testing.T, n int) {
	t.Helper()
	s.Eventually(fmt.Sprintf("the guest has started %d times", n), func() error {
		if got := s.starts(t); got < n {
			return fmt.Errorf("it has started %d times; it has said %q", got, s.said(t))
		}
		return nil
	})
}

// tell types a letter for the guest of one sector.
func (s *scene) tell(t *testing.T, letter string) {
	t.Helper()
	if err := s.Client.Type(t.Context(), s.vm.Name, []byte(letter)); err != nil {
		t.Fatal(err)
	}
}

// listens makes sure that the guest of one sector is alive. What is typed while it starts is lost in its firmware, and said again.
func (s *scene) listens(t *testing.T) {
	t.Helper()
	heard := strings.Count(s.said(t), "x")
	var typed time.Time
	s.Eventually("the guest answers", func() error {
		if strings.Count(s.said(t), "x") > heard {
			return nil
		}
		if time.Since(typed) > time.Second/2 {
			typed = time.Now()
			s.tell(t, "x")
		}
		vm := s.vm.Show()
		return fmt.Errorf("it says nothing; it is %s, %s", vm.Status, vm.RunState)
	})
}

// becomes waits until QEMU says that of the guest.
func (s *scene) becomes(t *testing.T, runState string) {
	t.Helper()
	s.Eventually("the guest is "+runState, func() error {
		if vm := s.vm.Show(); vm.RunState != runState {
			return fmt.Errorf("it is %s, %s", vm.Status, vm.RunState)
		}
		return nil
	})
}

// A guest in any other state than running, paused or not yet started is not handed over: the problem names the state, and the guest stays
// in it. Once it runs again, it can be.
func TestOtherRunStates(t *testing.T) {
	s := newScene(t)
	s.startSectorOn(t, "vm1", badDisk, "-no-shutdown", "-action", "panic=pause,watchdog=pause", "-device", "pvpanic", "-device", "ib700")
	for _, tt := range []struct{ letter, state string }{
		{"s", "suspended"}, {"P", "guest-panicked"}, {"w", "watchdog"}, {"d", "io-error"}, {"p", "shutdown"},
	} {
		t.Run(tt.state, func(t *testing.T) {
			starts := s.starts(t)
			s.tell(t, tt.letter)
			s.becomes(t, tt.state)
			for _, way := range vmstate.Ways() {
				s.undone(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(s.other()), Way: way},
					want{kind: vmstate.Unsupported, step: "inspect-source", says: "its run state is " + tt.state})
			}
			if _, err := s.Client.Reset(t.Context(), s.vm.Name); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Client.Resume(t.Context(), s.vm.Name); err != nil {
				t.Fatal(err)
			}
			s.awaitStarts(t, starts+1)
			s.hands(t, vmstate.WayDeviceState)
		})
	}
}

// hands hands the guest of one sector over to the other QEMU.
func (s *scene) hands(t *testing.T, way vmstate.Way) {
	t.Helper()
	m := s.vm.Wait(s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(s.other()), Way: way}).ID)
	if m.Phase != vmstate.Completed {
		t.Fatalf("handing over by %s: %s: %+v", way, m.Phase, m.Error)
	}
	s.listens(t)
}

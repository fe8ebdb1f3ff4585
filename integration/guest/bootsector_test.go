package guest_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"qlive/integration/guest/bootsector"
)

func TestBootSector(t *testing.T) {
	image := filepath.Join(t.TempDir(), "boot.img")
	if err := bootsector.Write(image); err != nil {
		t.Fatal(err)
	}
	for _, accel := range []string{"tcg", "kvm"} {
		t.Run(accel, func(t *testing.T) {
			if _, err := os.Stat("/dev/kvm"); accel == "kvm" && err != nil {
				t.Skipf("this host has no KVM: %v", err)
			}
			m := start(t, spec{accel: accel, args: bootsector.Args(image)})
			began := time.Now()
			var c bootsector.Counter
			m.count(&c, 200)
			t.Logf("first counts after %v", time.Since(began).Round(time.Millisecond))
			m.count(&c, 1000)
			if r := c.Report(); r.Check() != nil || r.Boots != 1 {
				t.Errorf("%+v: %v", r, r.Check())
			}
			t.Logf("the longest gap is %v", c.Report().MaxGap)
			m.hmp("quit")
			m.awaitExit()
		})
	}
}

// count reads counts until there are n more.
func (m *machine) count(c *bootsector.Counter, n uint64) {
	m.t.Helper()
	deadline, _ := m.ctx.Deadline()
	if err := m.serial.SetReadDeadline(deadline); err != nil {
		m.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for goal := c.Report().Lines + n; c.Report().Lines < goal; {
		read, err := m.serial.Read(buf)
		if err != nil {
			m.t.Fatalf("cannot wait for a count after %+v: %v", c.Report(), err)
		}
		c.Feed(buf[:read], time.Now())
	}
}

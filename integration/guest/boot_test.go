package guest_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"qlive/integration/guest"
	"qlive/integration/guest/beats"
	"qlive/integration/guest/pattern"
	"qlive/integration/guest/wire"
)

// A guest's whole life: it beats, finds its memory well, answers, reboots through the firmware and
// switches itself off.
func TestLife(t *testing.T) {
	tests := map[string]spec{
		"q35, one vCPU":     {},
		"q35, two vCPUs":    {cpus: 2},
		"i440fx, two vCPUs": {cpus: 2, machine: "pc-i440fx-7.2"},
		"a newer QEMU":      {qemu: "11.1.3"},
	}
	for name, s := range tests {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			s.kernel = &guest.Params{VerifySecs: 1}
			m := boot(t, s)
			t.Logf("up and filled after %v", time.Since(began).Round(time.Millisecond))
			m.console.Window() // of a guest that filled its memory
			if err := m.console.AwaitBeats(m.ctx, 1500); err != nil {
				t.Fatal(err)
			}
			logGaps(t, "at rest, verifying once a second", m.console.Window())
			m.verify(true)
			m.ask("echo is there anybody", func(r beats.Report) bool { return slices.Contains(r.Answers, "is there anybody") })
			first := m.console.Report().Boots[0]
			if want := uint64(max(s.cpus, 1)); first.Up.CPUs != want || first.Up.Pages != 64<<20/pattern.PageBytes {
				t.Errorf("the guest says %+v", first.Up)
			}
			write(t, m.serial, "reboot\n")
			second, err := m.console.AwaitBoot(m.ctx, 2)
			if err != nil {
				t.Fatal(err)
			}
			if second.Up.Boot == first.Up.Boot || second.First.Seq != 1 {
				t.Errorf("the second boot is %+v, the first was %+v", second.Up, first.Up)
			}
			m.verify(true)
			m.poweroff()
			r := m.console.Report()
			if err := r.Check(); err != nil {
				t.Error(err)
			}
			if r.Mems < 3 || len(r.Boots) != 2 || r.Boots[0].Bye.How != "reboot" || r.Boots[1].Bye.How != "poweroff" || r.Cut != 0 {
				t.Errorf("the guest's story: %d verifications, %+v", r.Mems, r.Boots)
			}
		})
	}
}

// ask sends a command and waits for what comes of it.
func (m *machine) ask(command string, done func(beats.Report) bool) beats.Report {
	m.t.Helper()
	if err := m.console.Send(command); err != nil {
		m.t.Fatal(err)
	}
	r, err := m.console.Await(m.ctx, "what comes of "+command, done)
	if err != nil {
		m.t.Fatal(err)
	}
	return r
}

// verify has the guest verify its memory, which is expected to be well or not.
func (m *machine) verify(ok bool) wire.Mem {
	m.t.Helper()
	mem, err := m.console.Verify(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	if mem.OK != ok {
		m.t.Errorf("verification found %+v, %+v", mem, m.console.Report().Bad)
	}
	return mem
}

// poweroff has the guest switch itself off and waits for QEMU's end.
func (m *machine) poweroff() {
	m.t.Helper()
	m.ask("poweroff", func(r beats.Report) bool { return r.Boots[len(r.Boots)-1].Bye != nil })
	m.awaitExit()
}

func logGaps(t *testing.T, what string, g beats.Gaps) {
	t.Helper()
	for _, side := range []struct {
		clock string
		all   *beats.Histogram
		max   time.Duration
	}{{"guest", &g.GuestAll, g.Guest}, {"host", &g.HostAll, g.Host}} {
		t.Logf("gaps %s, by the %s's clock: n=%d p50<=%v p90<=%v p99<=%v p99.9<=%v max=%v", what, side.clock, side.all.N(),
			side.all.Quantile(.5), side.all.Quantile(.9), side.all.Quantile(.99), side.all.Quantile(.999), side.max)
	}
}

// The verification can fail: what the host does to the guest's memory, the guest finds, names, and no
// longer finds once it is undone.
func TestHarmIsFound(t *testing.T) {
	m := boot(t, spec{kernel: &guest.Params{FillMiB: 32, VerifySecs: -1}})
	up := *m.console.Report().Boots[0].Up
	page := m.page(up, 100)
	tests := []struct {
		name string
		page uint64
		harm func() (undo func())
		what string
	}{
		{"one bit", 100, func() func() { page[4000] ^= 4; return func() { page[4000] ^= 4 } }, pattern.Torn},
		{"a page lost", 100, func() func() { return m.put(page, make([]byte, pattern.PageBytes)) }, pattern.Zero},
		{"a page of another place", 100, func() func() { return m.put(page, slices.Clone(m.page(up, 101))) }, pattern.Moved},
		{"a page from earlier", up.Pages - 1, func() func() { return m.putStale(up, uint32(up.Pages-1)) }, pattern.Stale},
	}
	for _, tt := range tests {
		m.verify(true)
		known := len(m.console.Report().Bad)
		undo := tt.harm()
		mem := m.verify(false)
		bad := m.console.Report().Bad[known:]
		if mem.Bad != 1 || len(bad) != 1 || bad[0].Page != tt.page || bad[0].What != tt.what {
			t.Errorf("%s: found %+v, %+v", tt.name, mem, bad)
		}
		undo()
	}
	m.verify(true)
	if r := m.console.Report(); r.BadMems != uint64(len(tests)) || r.Check() == nil {
		t.Errorf("%d bad verifications, judged %v", r.BadMems, r.Check())
	}
	m.poweroff()
}

// page finds a page of the pattern in the guest's RAM.
func (m *machine) page(up wire.Up, index uint32) []byte {
	m.t.Helper()
	for at := 0; at < len(m.ram); at += pattern.PageBytes {
		raw := m.ram[at : at+pattern.PageBytes]
		if i, _, ok := pattern.Identify(raw, up.Boot, uint32(up.Pages)); ok && i == index {
			return raw
		}
	}
	m.t.Fatalf("page %d of the pattern is not in the guest's RAM", index)
	return nil
}

// put replaces a page and returns how to undo it.
func (m *machine) put(page, by []byte) func() {
	old := slices.Clone(page)
	copy(page, by)
	return func() { copy(page, old) }
}

// putStale puts an earlier generation of a page that the guest keeps rewriting in the place of the
// present one, after it has stopped.
func (m *machine) putStale(up wire.Up, index uint32) func() {
	m.t.Helper()
	m.rate("0")
	page := m.page(up, index)
	old := slices.Clone(page)
	m.rate("2000")
	for binary.LittleEndian.Uint64(page) == binary.LittleEndian.Uint64(old) {
		if err := m.console.AwaitBeats(m.ctx, 1); err != nil {
			m.t.Fatal(err)
		}
	}
	m.rate("0")
	return m.put(page, old)
}

// rate sets the rate of rewriting and waits until it holds: the guest looks at it every 4 ms.
func (m *machine) rate(pages string) {
	m.t.Helper()
	m.ask("rate "+pages, func(r beats.Report) bool { return slices.Contains(r.Answers, "rate "+pages) })
	if err := m.console.AwaitBeats(m.ctx, 20); err != nil {
		m.t.Fatal(err)
	}
}

func TestPanic(t *testing.T) {
	m := boot(t, spec{})
	r := m.ask("panic", func(r beats.Report) bool { return r.Panics > 0 })
	if b := r.Boots[0]; b.Bye == nil || b.Bye.How != "panic" || !b.Panicked || r.Panics != 1 {
		t.Errorf("the guest's story: %+v, %q", b, r.Kernel)
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	m.hmp("quit")
	m.awaitExit()
}

// With its driver the guest tells QEMU that it panics, and QEMU ends as it does by default.
func TestPanicReachesQEMU(t *testing.T) {
	drivers, err := guest.Modules(cached(t, "kernel/modules"), "pvpanic_pci")
	if err != nil {
		t.Fatal(err)
	}
	m := boot(t, spec{modules: drivers, args: []string{"-device", "pvpanic-pci"}})
	m.ask("panic", func(r beats.Report) bool { return r.Boots[0].Bye != nil })
	m.awaitExit()
}

// A reset from outside, at any moment, may cut a line but loses nothing else.
func TestReset(t *testing.T) {
	m := boot(t, spec{kernel: &guest.Params{FillMiB: 8}})
	m.hmp("system_reset")
	if _, err := m.console.AwaitBoot(m.ctx, 2); err != nil {
		t.Fatal(err)
	}
	m.verify(true)
	r := m.console.Report()
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	if len(r.Boots) != 2 || r.Boots[0].Bye != nil || r.Boots[0].Up.Boot == r.Boots[1].Up.Boot {
		t.Errorf("the guest's story: %+v", r.Boots)
	}
	m.poweroff()
}

// While the machine is stopped the guest's clock stands still: the pause shows by the host's clock,
// and no beat is lost over it.
func TestPauseIsSeen(t *testing.T) {
	m := boot(t, spec{kernel: &guest.Params{FillMiB: 8, VerifySecs: -1}})
	lag := m.console.Report().Boots[0].Lag()
	m.console.Window()
	m.hmp("stop")
	const pause = time.Second
	time.Sleep(pause) // the pause itself, not a wait
	m.hmp("cont")
	if err := m.console.AwaitBeats(m.ctx, 100); err != nil {
		t.Fatal(err)
	}
	w := m.console.Window()
	if w.Host < pause/2 || w.Guest > w.Host/2 {
		t.Errorf("a pause of %v shows as %v by the host's clock, %v by the guest's", pause, w.Host, w.Guest)
	}
	r := m.console.Report()
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	if lag = r.Boots[0].Lag() - lag; lag < pause/2 {
		t.Errorf("the guest's clock fell behind by %v over a pause of %v", lag, pause)
	}
	m.poweroff()
}

// What is wrong with the guest itself is said before it dies of it.
func TestFailureIsSaid(t *testing.T) {
	tests := map[string]struct {
		params guest.Params
		want   string
	}{
		"a wrong parameter": {guest.Params{KernelParams: []string{"qlive.fill_mb=many"}}, "give it a whole number"},
		"too much to fill":  {guest.Params{FillMiB: 250}, "cannot fill 250 MiB"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := start(t, spec{kernel: &tt.params})
			r, err := m.console.Await(m.ctx, "a panic", func(r beats.Report) bool { return r.Panics > 0 })
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Errors) != 1 || !strings.Contains(r.Errors[0], tt.want) || r.Check() == nil {
				t.Errorf("errors %q, judged %v; want %q", r.Errors, r.Check(), tt.want)
			}
		})
	}
}

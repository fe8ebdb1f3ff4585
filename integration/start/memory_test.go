package start_test

import (
	"os"
	"sync"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/proc"
	"qlive/vmstate"
)

// most is what the host may hold more at the peak of a handoff, whatever the guest's size.
const most = 64 * mib

// held is what memory there is in use.
type held struct {
	own  uint64 // by the daemon, its QEMUs and the guest's RAM: private pages, page tables and the RAM's files
	host uint64 // by the whole host: AnonPages, Shmem, and huge pages that are not free
	ram  uint64 // the RAM's files
}

// meter takes the measure of memory until it is stopped, and keeps the peaks.
type meter struct {
	vm   vmstate.VM
	stop chan struct{}
	done sync.WaitGroup
	peak held
	n    int
}

// gauge measures once.
func gauge(t *testing.T, vm vmstate.VM) (h held) {
	t.Helper()
	for _, pid := range append(children(), os.Getpid()) {
		if s, err := proc.ReadStatus(pid); err == nil { // else it has ended
			h.own += s.RSSAnon + s.PageTables
		}
	}
	holds := memfds(t, os.Getpid())
	for _, r := range vm.Regions {
		h.ram += uint64(holds[r.Inode].stat.Blocks) * 512
	}
	h.own += h.ram
	m, err := proc.ReadMeminfo()
	if err != nil {
		t.Fatal(err)
	}
	h.host = m.Anon + m.Shmem + (m.HugePages-m.HugePagesFree)*m.HugePageBytes
	return h
}

func (m *meter) run(t *testing.T) {
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for {
		h := gauge(t, m.vm)
		m.peak = held{own: max(m.peak.own, h.own), host: max(m.peak.host, h.host), ram: max(m.peak.ram, h.ram)}
		m.n++
		select {
		case <-tick.C:
		case <-m.stop:
			return
		}
	}
}

// during is what is held more at the peak of f than before it.
func during(t *testing.T, vm vmstate.VM, f func()) (before, more held) {
	t.Helper()
	before = gauge(t, vm)
	m := &meter{vm: vm, stop: make(chan struct{})}
	m.done.Go(func() { m.run(t) })
	f()
	close(m.stop)
	m.done.Wait()
	if m.n < 10 {
		t.Errorf("it was measured only %d times", m.n)
	}
	less := func(a, b uint64) uint64 { return a - min(a, b) }
	return before, held{own: less(m.peak.own, before.own), host: less(m.peak.host, before.host), ram: less(m.peak.ram, before.ram)}
}

// However large the guest and whatever holds it, a handoff takes no more than a QEMU's own footprint: nothing of the RAM is copied, no hole of it is
// filled. What the whole host holds more is looked at as well, in case that something is held which belongs to no process; but others live on the
// host too, so there the quietest of some handoffs counts, with room for what somebody else may have started meanwhile.
func TestMemory(t *testing.T) {
	for _, tt := range []struct {
		name string
		mib  int
		args []string
		huge bool
	}{
		{"256 MiB, some of it touched", 256, nil, false},
		{"256 MiB, full", 256, []string{"-mem-prealloc"}, false},
		{"256 MiB of huge pages", 256, nil, true},
		{"2 GiB, full", 2048, []string{"-mem-prealloc"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var memory vmstate.MemorySpec
			if tt.huge {
				wantPool(t, uint64(tt.mib/2))
				memory.Backing = vmstate.Hugetlb
			}
			l := lab.New(t, lab.Options{NoTree: true})
			vm := l.Boot(lab.Spec{MiB: tt.mib, Args: tt.args, Memory: memory, Guest: small()})
			inode := vm.Show().Regions[0].Inode
			quietest := held{host: ^uint64(0)}
			versions := []string{env.Newest, env.Installed}
			for try := 0; try < 6 && (try < 2 || quietest.host > 2*most); try++ {
				var m vmstate.Migration
				before, more := during(t, vm.Show(), func() { m = vm.HandOver(versions[try%2], "") })
				t.Logf("%s → %s: %d MiB of RAM; more at the peak: own %d KiB, host %d KiB; the target's own by the record %d KiB; %s",
					m.From.Version, m.To.Version, before.ram/mib, more.own>>10, more.host>>10, m.ExtraBytes>>10, m.Regions[0].Note)
				if more.own > most || m.ExtraBytes > most || m.ExtraBytes == 0 {
					t.Errorf("%d bytes are held more, the record says %d", more.own, m.ExtraBytes)
				}
				// A guest that runs may touch pages that it never has; a full one cannot.
				full := before.ram == uint64(tt.mib)*mib
				if full != (tt.args != nil) || full && more.ram != 0 || more.ram > 8*mib {
					t.Errorf("the RAM's files held %d bytes and %d more at the peak", before.ram, more.ram)
				}
				if got := vm.Show().Regions[0].Inode; got != inode {
					t.Errorf("the RAM is in inode %d now, it was %d", got, inode)
				}
				quietest.host = min(quietest.host, more.host)
			}
			if quietest.host > 2*most {
				t.Errorf("the host holds at least %d bytes more at the peak of every handoff", quietest.host)
			}
			vm.CheckMemory()
		})
	}
}

package daemon

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"qlive/flip/memory"
	"qlive/internal/systemd"
	"qlive/internal/systemd/systemdtest"
)

// RAM is stored under its VM's name, the very files, once, and let go of with the VM.
func TestCustodyKeeps(t *testing.T) {
	m := systemdtest.New(t, "")
	s := started(t, m, nil)
	c := newCustody(s, zerolog.Nop())
	one, two := ram(t, "vm1", "pc.ram", "/objects/dimm-1"), ram(t, "vm2", "pc.ram")
	all := map[string]uint64{
		"ram-vm1-pc.ram": one.Regions()[0].Inode(), "ram-vm1-/objects/dimm%2D1": one.Regions()[1].Inode(), "ram-vm2-pc.ram": two.Regions()[0].Inode(),
	}
	for range 2 {
		c.keep("vm1", one, nil)
		c.keep("vm2", two, nil)
		syncWith(t, m, s)
		same(t, "stored", inodes(t, m.Stored()), all)
	}
	other := ram(t, "vm1", "pc.ram") // the guest was started anew
	c.keep("vm1", other, nil)
	syncWith(t, m, s)
	same(t, "stored of the new one", inodes(t, m.Stored()), map[string]uint64{"ram-vm1-pc.ram": other.Regions()[0].Inode(), "ram-vm2-pc.ram": two.Regions()[0].Inode()})
	c.release("vm1")
	c.release("never")
	syncWith(t, m, s)
	same(t, "left", inodes(t, m.Stored()), map[string]uint64{"ram-vm2-pc.ram": two.Regions()[0].Inode()})
}

// The next daemon is offered the very files, each once. What is claimed, and what is of a VM that is there, stays stored until the VM
// ends; the rest is let go of.
func TestCustodyOffers(t *testing.T) {
	m := systemdtest.New(t, "")
	s := started(t, m, nil)
	first := newCustody(s, zerolog.Nop())
	sets := map[string]*memory.Set{}
	for _, vm := range []string{"claimed", "known", "gone", "a-b", "anew"} {
		sets[vm] = ram(t, vm, "pc.ram")
		first.keep(vm, sets[vm], nil)
	}
	syncWith(t, m, s)

	next := started(t, m, nil, m.Stored()...)
	c := newCustody(next, zerolog.Nop())
	f := c.offer("claimed", "pc.ram")
	if f == nil {
		t.Fatal("nothing is offered")
	}
	defer f.Close()
	if got, want := identify(f).inode, sets["claimed"].Regions()[0].Inode(); got != want {
		t.Errorf("offered is inode %d, want %d", got, want)
	}
	for _, none := range [][2]string{{"claimed", "pc.ram"}, {"claimed", "other"}, {"nobody", "pc.ram"}, {"a", "b-pc.ram"}} {
		if f := c.offer(none[0], none[1]); f != nil {
			t.Errorf("%v is offered %s", none, f.Name())
		}
	}
	anew := ram(t, "anew", "pc.ram") // its guest had ended, and is started again
	c.keep("anew", anew, nil)
	c.settle(func(vm string) bool { return vm == "known" || vm == "claimed" || vm == "anew" })
	c.keep("claimed", sets["claimed"], nil) // the same inode: it stays as it is
	syncWith(t, m, next)
	same(t, "left", inodes(t, m.Stored()), map[string]uint64{
		"ram-claimed-pc.ram": sets["claimed"].Regions()[0].Inode(), "ram-known-pc.ram": sets["known"].Regions()[0].Inode(), "ram-anew-pc.ram": anew.Regions()[0].Inode(),
	})
	if len(c.received) != 0 {
		t.Errorf("unclaimed: %v", c.received)
	}
	for _, vm := range []string{"known", "claimed", "anew"} {
		c.release(vm)
	}
	syncWith(t, m, next)
	same(t, "left at the end", inodes(t, m.Stored()), map[string]uint64{})
}

// What a handoff moves RAM into is stored beside it, and under the RAM's own name once it is the guest's.
func TestCustodyOfTheNext(t *testing.T) {
	m := systemdtest.New(t, "")
	s := started(t, m, nil)
	c := newCustody(s, zerolog.Nop())
	old, next := ram(t, "vm1", "pc.ram"), ram(t, "vm1", "pc.ram")
	c.keep("vm1", old, next)
	syncWith(t, m, s)
	same(t, "meanwhile", inodes(t, m.Stored()), map[string]uint64{
		"ram-vm1-pc.ram": old.Regions()[0].Inode(), "ram-vm1-pc.ram%2Bnext": next.Regions()[0].Inode(),
	})
	c.keep("vm1", next, nil)
	syncWith(t, m, s)
	same(t, "afterwards", inodes(t, m.Stored()), map[string]uint64{"ram-vm1-pc.ram": next.Regions()[0].Inode()})
	c.release("vm1")
	syncWith(t, m, s)
	same(t, "at the end", inodes(t, m.Stored()), map[string]uint64{})
}

// Of two files under one name neither is trusted.
func TestCustodyTwoOfOneName(t *testing.T) {
	m := systemdtest.New(t, "")
	a, b := ram(t, "vm1", "pc.ram").Files()[0], ram(t, "vm1", "pc.ram").Files()[0]
	s := started(t, m, nil, systemd.File{Name: "ram-vm1-pc.ram", File: a}, systemd.File{Name: "ram-vm1-pc.ram", File: b}, systemd.File{Name: "ram-vm1-pc.ram", File: a},
		systemd.File{Name: "ram-vm2-pc.ram", File: a}, systemd.File{Name: "ram-vm2-pc.ram", File: a}, systemd.File{Name: "not ours", File: b})
	c := newCustody(s, zerolog.Nop())
	if f := c.offer("vm1", "pc.ram"); f != nil {
		t.Errorf("%s is offered", f.Name())
	}
	f := c.offer("vm2", "pc.ram")
	if f == nil {
		t.Fatal("one file that is stored twice is not offered")
	}
	must(t, f.Close())
	if got := m.Await(t, "FDSTOREREMOVE=1").Value("FDNAME"); got != "ram-vm1-pc.ram" {
		t.Errorf("%s is let go of", got)
	}
}

// A store that is full takes no more, and the daemon knows.
func TestCustodyFull(t *testing.T) {
	m := systemdtest.New(t, "")
	s := started(t, m, map[string]string{"FDSTORE": "2"})
	var log strings.Builder
	c := newCustody(s, zerolog.New(&log))
	set := ram(t, "vm1", "a", "b", "c")
	c.keep("vm1", set, nil)
	syncWith(t, m, s)
	if stored := m.Stored(); len(stored) != 2 || !strings.Contains(log.String(), "FileDescriptorStoreMax") || !strings.Contains(log.String(), `"region":"c"`) {
		t.Errorf("%d stored, log %s", len(stored), &log)
	}
}

// What is stored can be passed on: its names fit into one variable of a new process.
func TestCustodyNamesFit(t *testing.T) {
	m := systemdtest.New(t, "")
	s := started(t, m, nil)
	var log strings.Builder
	c := newCustody(s, zerolog.New(&log))
	for i := 0; !strings.Contains(log.String(), "RAM not stored"); i++ {
		name := ramName(fmt.Sprintf("vm%d", i), strings.Repeat("-", 255))
		if i > 1000 {
			t.Fatalf("%d names of %d bytes are stored", i, len(name))
		}
		c.noteLocked(fmt.Sprintf("vm%d", i), name, identity{})
		if i%50 == 0 {
			c.keep("last", ram(t, "last", "pc.ram"), nil)
		}
	}
	_, bytes := c.sizeLocked()
	cmd := exec.Command("/bin/true")
	cmd.Env = []string{"LISTEN_FDNAMES=" + strings.Repeat("x", bytes)}
	must(t, cmd.Run())
}

func TestRAMName(t *testing.T) {
	for _, c := range []struct{ vm, region, want string }{
		{"vm1", "pc.ram", "ram-vm1-pc.ram"},
		{"web-1", "/objects/ram-node0", "ram-web-1-/objects/ram%2Dnode0"},
		{"vm1", "0000:00:02.0/vmem", "ram-vm1-0000%3A00%3A02.0/vmem"},
		{"vm1", "é\n", "ram-vm1-%C3%A9%0A"},
	} {
		if got := ramName(c.vm, c.region); got != c.want || vmOfRAM(got) != c.vm {
			t.Errorf("ramName(%q, %q) = %q of %q, want %q", c.vm, c.region, got, vmOfRAM(got), c.want)
		}
	}
	for _, name := range []string{"", "ram-", "ram-vm1", "socket-a-b"} {
		if vm := vmOfRAM(name); vm != "" {
			t.Errorf("%q is of %q", name, vm)
		}
	}
}

func TestRAMNamesAreTakenAndNeverMeet(t *testing.T) {
	vm := rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,62}`)
	region := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z/:-]{1,4}`), rapid.StringMatching(`[a/]{180,255}`))
	rapid.Check(t, func(t *rapid.T) {
		vm1, vm2, region1, region2 := vm.Draw(t, "vm1"), vm.Draw(t, "vm2"), region.Draw(t, "region1"), region.Draw(t, "region2")
		a, b := ramName(vm1, region1), ramName(vm2, region2)
		if (a == b) != (vm1 == vm2 && region1 == region2) {
			t.Fatalf("%q and %q", a, b)
		}
		if err := systemd.CheckName(a); err != nil || vmOfRAM(a) != vm1 {
			t.Fatalf("%q: %v, of %q", a, err, vmOfRAM(a))
		}
	})
}

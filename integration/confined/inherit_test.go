package confined_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/daemon"
	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// ramFile names a file for good.
type ramFile struct{ dev, inode uint64 }

// holders are the processes among pids that have one of the files open, or mapped.
func holders(t *testing.T, pids []int, files []ramFile) (open, mapped []int) {
	t.Helper()
	for _, pid := range pids {
		if slices.ContainsFunc(files, func(f ramFile) bool { return hasOpen(pid, f) }) {
			open = append(open, pid)
		}
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/maps")
		if err == nil && slices.ContainsFunc(files, func(f ramFile) bool { return strings.Contains(string(text), " "+strconv.FormatUint(f.inode, 10)+" ") }) {
			mapped = append(mapped, pid)
		}
	}
	return open, mapped
}

func hasOpen(pid int, f ramFile) bool {
	paths, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*") // the pattern is right
	return slices.ContainsFunc(paths, func(path string) bool {
		var st unix.Stat_t
		return unix.Stat(path, &st) == nil && st.Dev == f.dev && st.Ino == f.inode
	})
}

// ramOf are the files of a guest's RAM, as its QEMU has them.
func ramOf(t *testing.T, vm vmstate.VM) (files []ramFile) {
	t.Helper()
	for _, r := range vm.Regions {
		paths, _ := filepath.Glob("/proc/" + strconv.Itoa(vm.PID) + "/fd/*") // the pattern is right
		for _, path := range paths {
			var st unix.Stat_t
			if unix.Stat(path, &st) == nil && st.Ino == r.Inode && !slices.Contains(files, ramFile{st.Dev, st.Ino}) {
				files = append(files, ramFile{st.Dev, st.Ino})
			}
		}
	}
	if len(files) == 0 {
		t.Fatalf("process %d has none of its RAM open: %+v", vm.PID, vm.Regions)
	}
	return files
}

// Guest RAM is open in the daemon and in the QEMUs of its VM, and in no other process that the daemon starts: not in another VM's, and
// not in one that is asked what it is while everything else happens.
func TestRAMReachesNobodyElse(t *testing.T) {
	s := newScene(t, func(c *daemon.Config) { c.User = nobody })
	one := s.Start(lab.Spec{Name: "vm1", Bare: true})
	two := s.Start(lab.Spec{Name: "vm2", Bare: true, MiB: 256})
	ram := map[string][]ramFile{"vm1": ramOf(t, one.Show()), "vm2": ramOf(t, two.Show())}

	// A QEMU that is asked what it is, and takes its time.
	seen := filepath.Join(s.folder(t, 0o777), "seen")
	slow := s.script(t, "slow", env.Installed, "touch "+seen+"\nwhile [ -e "+seen+" ]; do sleep 0.01; done\nexec QEMU \"$@\"")
	slowID := two.MigrateNoWait(vmstate.MigrationSpec{Binary: slow, Hold: true})
	s.Eventually("the probe runs", func() error { _, err := os.Stat(seen); return err })

	// Meanwhile the other VM's handoff begins: to the same version, whose answers are known, since binaries are asked one at a time.
	m := s.hold(t, one, s.Env.QEMU(env.Installed))
	all := append(children(t), os.Getpid())
	us := os.Getpid()
	for vm, want := range map[string][]int{"vm1": {us, m.From.PID, m.To.PID}, "vm2": {us, two.Show().PID}} {
		slices.Sort(want)
		open, mapped := holders(t, all, ram[vm])
		slices.Sort(open)
		slices.Sort(mapped)
		if !slices.Equal(open, want) {
			t.Errorf("the RAM of %s is open in %v, want %v of %v", vm, open, want, all)
		}
		if want = slices.DeleteFunc(want, func(pid int) bool { return pid == us }); !slices.Equal(mapped, want) {
			t.Errorf("the RAM of %s is mapped by %v, want %v", vm, mapped, want)
		}
	}
	if len(all) < 5 { // us, three QEMUs, the probe
		t.Errorf("there are only %v", all)
	}
	for _, pid := range all {
		if pid != us && len(ownFiles(t, pid)) > 0 {
			t.Errorf("process %d has %v of the daemon's open", pid, ownFiles(t, pid))
		}
	}
	if err := os.Remove(seen); err != nil {
		t.Fatal(err)
	}
	s.goOn(t, one, m.ID)
	s.Eventually("the other handoff ends", func() error {
		_, err := s.Client.Cancel(t.Context(), slowID)
		return err
	})
	two.Wait(slowID)
}

// ownFiles are descriptors of a process that are the daemon's business alone.
func ownFiles(t *testing.T, pid int) (list []string) {
	t.Helper()
	paths, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		name, err := os.Readlink(path)
		if err != nil {
			continue
		}
		for _, ours := range []string{"/journal", "/lock", "pidfd", "/dev/fuse", "/qmp.log", "/cgroup"} {
			if strings.Contains(name, ours) {
				list = append(list, name)
			}
		}
	}
	return list
}

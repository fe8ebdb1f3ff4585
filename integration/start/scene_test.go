package start_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/lab"
	"qlive/internal/proc"
	"qlive/internal/qmp"
	"qlive/restapi/client"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mib = 1 << 20

// small is what a guest verifies quickly.
func small() guest.Params { return guest.Params{FillMiB: 16, DirtyMiB: 2, VerifySecs: -1} }

// machineArgs is a line that makes a small machine without a kernel: the guest sits in its firmware.
func machineArgs(more ...string) []string {
	return append([]string{"-accel", "tcg", "-machine", "pc-q35-7.2", "-nodefaults", "-display", "none"}, more...)
}

// begin starts a VM from a line as a user would write it, with the oldest QEMU.
func begin(t *testing.T, l *lab.Lab, spec vmstate.VMSpec) vmstate.VM {
	t.Helper()
	if spec.Name == "" {
		spec.Name = "vm1"
	}
	if spec.Binary == "" {
		spec.Binary = l.Env.QEMU(env.Installed)
	}
	vm, err := l.Client.StartVM(t.Context(), spec)
	if err != nil {
		t.Fatalf("starting %q: %v", spec.Args, err)
	}
	t.Cleanup(func() { remove(t, l, vm.Name) })
	return vm
}

// remove kills a VM, if it is still there.
func remove(t *testing.T, l *lab.Lab, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.Limit)
	defer cancel()
	if err := l.Client.RemoveVM(ctx, name, true); err != nil && vmstate.KindOf(err) != vmstate.NotFound {
		t.Errorf("removing %s: %v", name, err)
	}
}

// handOver hands a VM over and returns how that ended; it must succeed.
func handOver(t *testing.T, l *lab.Lab, spec vmstate.MigrationSpec) vmstate.Migration {
	t.Helper()
	m := migrate(t, l, spec)
	if m.Phase != vmstate.Completed {
		t.Fatalf("handing over to %s: %s: %+v\nlog: %+v", spec.Binary, m.Phase, m.Error, m.Log)
	}
	return m
}

// migrate asks for a handoff and waits for its end.
func migrate(t *testing.T, l *lab.Lab, spec vmstate.MigrationSpec) vmstate.Migration {
	t.Helper()
	m, err := l.Client.Migrate(t.Context(), spec, "")
	if err == nil {
		m, err = l.Client.Migration(t.Context(), m.ID, lab.Limit)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !m.Phase.Ended() {
		t.Fatalf("the migration is still %s", m.Phase)
	}
	return m
}

// reach waits until a migration is in a phase.
func reach(t *testing.T, l *lab.Lab, id string, phase vmstate.Phase) (m vmstate.Migration) {
	t.Helper()
	l.Eventually("the migration is "+string(phase), func() (err error) {
		m, err = l.Client.Migration(t.Context(), id, 0)
		if err == nil && m.Phase != phase {
			if m.Phase.Ended() {
				t.Fatalf("the migration is %s, wanted %s: %+v", m.Phase, phase, m.Error)
			}
			err = fmt.Errorf("it is %s", m.Phase)
		}
		return err
	})
	return m
}

// refused checks what REST says of a line that cannot be started: the kind of problem, and what its detail and remedy say.
func refused(t *testing.T, err error, kind vmstate.Kind, says ...string) {
	t.Helper()
	r, ok := errors.AsType[*client.Refusal](err)
	if !ok {
		t.Fatalf("it was not refused: %v", err)
	}
	if r.Kind() != kind || r.Status != kind.Info().Status || r.VM == "" && kind != vmstate.NotFound {
		t.Errorf("the problem is %+v, want %s", r.Problem, kind)
	}
	if r.Remedy == "" || !strings.HasPrefix(r.Detail, "cannot ") {
		t.Errorf("the problem helps nobody: %+v", r.Problem)
	}
	text := r.Detail + "\n" + r.Remedy + "\n" + strings.Join(r.QEMU, "\n")
	for _, s := range says {
		if !strings.Contains(text, s) {
			t.Errorf("%q is not said in %q, remedy %q, QEMU's words %q", s, r.Detail, r.Remedy, r.QEMU)
		}
	}
}

// stock is what a start that came to nothing must leave as it was.
type stock struct {
	vms, children, folder int
	memfds                int
}

func look(t *testing.T, l *lab.Lab) stock {
	t.Helper()
	vms, err := l.Client.VMs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.ReadDir(filepath.Join(l.Dir, "run/vms"))
	if err != nil {
		t.Fatal(err)
	}
	return stock{vms: len(vms), children: len(children()), folder: len(folder), memfds: len(memfds(t, os.Getpid()))}
}

// children are the processes that this process, in which the daemon lives, has started and not yet buried.
func children() (list []int) {
	stats, _ := proc.Children(os.Getpid()) // /proc is always there
	for _, s := range stats {
		list = append(list, s.PID)
	}
	return list
}

// fdInfo is a descriptor of some process.
type fdInfo struct {
	path string // in /proc
	link string
	stat syscall.Stat_t
}

// memfds are the descriptors of guest RAM that a process has, by inode.
func memfds(t *testing.T, pid int) map[uint64]fdInfo {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	found := map[uint64]fdInfo{}
	for _, e := range entries {
		f := fdInfo{path: filepath.Join(dir, e.Name())}
		if f.link, err = os.Readlink(f.path); err != nil || !strings.Contains(f.link, "qlive-vm") {
			continue
		}
		if err := syscall.Stat(f.path, &f.stat); err == nil {
			found[f.stat.Ino] = f
		}
	}
	return found
}

// mappedShared is how much of an inode a process maps shared, readable and writable.
func mappedShared(t *testing.T, pid int, inode uint64) (total uint64) {
	t.Helper()
	maps, err := proc.ReadMaps(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range maps {
		if m.Inode != inode || !strings.Contains(m.Path, "qlive-vm") {
			continue
		}
		if !m.Shared || !m.Read || !m.Write {
			t.Errorf("process %d maps %s as %+v", pid, m.Path, m)
		}
		total += m.Len()
	}
	return total
}

// allocated is how much memory the file of a region holds.
func allocated(t *testing.T, pid int, r vmstate.Region) uint64 {
	t.Helper()
	f, ok := memfds(t, pid)[r.Inode]
	if !ok {
		t.Fatalf("process %d has no descriptor of region %s", pid, r.Name)
	}
	return uint64(f.stat.Blocks) * 512
}

// checkRAM makes sure that the regions are what is wanted of them, and that QEMU and the daemon hold and map those very inodes.
func checkRAM(t *testing.T, vm vmstate.VM, want []vmstate.Region) {
	t.Helper()
	if len(vm.Regions) != len(want) {
		t.Fatalf("there are %d regions, want %d: %+v", len(vm.Regions), len(want), vm.Regions)
	}
	for i, r := range vm.Regions {
		w := want[i]
		w.Inode, w.OwnerPID, w.State, w.TotalBytes = r.Inode, vm.PID, vmstate.Owned, w.SizeBytes
		if w.Backing == "" {
			w.Backing, w.PageBytes = vmstate.Memfd, 4096
		}
		if r != w {
			t.Errorf("region %+v, want %+v", r, w)
		}
		if got := mappedShared(t, vm.PID, r.Inode); got < r.SizeBytes {
			t.Errorf("QEMU maps %d of the %d bytes of %s", got, r.SizeBytes, r.Name)
		}
		for who, pid := range map[string]int{"QEMU": vm.PID, "the daemon": os.Getpid()} {
			f, ok := memfds(t, pid)[r.Inode]
			if !ok {
				t.Errorf("%s does not hold %s", who, r.Name)
				continue
			}
			if r.Backing != vmstate.Hugetlbfs {
				checkSeals(t, f, r)
			}
		}
	}
}

// checkSeals looks at a memfd as any holder of the descriptor sees it: its size is fixed, its content is not.
func checkSeals(t *testing.T, f fdInfo, r vmstate.Region) {
	t.Helper()
	file, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	seals, err := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0)
	if err != nil {
		t.Fatal(err)
	}
	const want, never = unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL, unix.F_SEAL_WRITE | unix.F_SEAL_FUTURE_WRITE
	if seals&want != want || seals&never != 0 {
		t.Errorf("%s has the seals %#x", f.path, seals)
	}
	for _, size := range []uint64{r.SizeBytes - r.PageBytes, r.SizeBytes + r.PageBytes} {
		if err := file.Truncate(int64(size)); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s of %d bytes can be made %d bytes large: %v", f.path, r.SizeBytes, size, err)
		}
	}
}

// monitor speaks QMP with whoever listens at path: a person at the public name of a monitor.
func monitor(t *testing.T, path string) *qmp.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lab.Limit)
	defer cancel()
	c, err := qmp.Dial(ctx, path, qmp.Options{})
	if err != nil {
		t.Fatalf("speaking to %s: %v", path, err)
	}
	return c
}

// argv finds an argument of the line that was run, and those that were dropped, by what the user wrote or what was run.
func argv(t *testing.T, vm vmstate.VM, text string) vmstate.Arg {
	t.Helper()
	i := slices.IndexFunc(vm.Argv, func(a vmstate.Arg) bool { return strings.Contains(a.Value, text) || strings.Contains(a.Was, text) })
	if i < 0 {
		shown, _ := json.MarshalIndent(vm.Argv, "", " ")
		t.Fatalf("there is no %q in\n%s", text, shown)
	}
	return vm.Argv[i]
}

// await waits for something with a deadline.
func await(t *testing.T, what string, limit time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s until %s: %v", limit, what, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

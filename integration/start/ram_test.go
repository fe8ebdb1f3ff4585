package start_test

import (
	"fmt"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

func ram(name string, size uint64) vmstate.Region { return vmstate.Region{Name: name, SizeBytes: size} }

// However a line says what RAM there is, the guest gets that RAM in memfds that the daemon holds, under the names that QEMU wants, and a
// QEMU of another version takes it.
func TestRAM(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	plain := []string{"-accel", "tcg", "-nodefaults", "-display", "none"}
	for _, tt := range []struct {
		name string
		args []string
		want []vmstate.Region
	}{
		{"plain -m", machineArgs("-m", "128"), []vmstate.Region{ram("pc.ram", 128*mib)}},
		{"no -m at all", machineArgs(), []vmstate.Region{ram("pc.ram", 128*mib)}},
		{"-m with a unit, i440fx", append(plain, "-M", "pc-i440fx-7.2", "-m", "size=0.125G"), []vmstate.Region{ram("pc.ram", 128*mib)}},
		{"alias of the machine type, -mem-path", append(plain, "-machine", "q35", "-m", "64", "-mem-path", "/dev/shm"), []vmstate.Region{ram("pc.ram", 64*mib)}},
		{"a backend named by -machine", machineArgs("-m", "64M", "-object", "memory-backend-ram,id=mine,size=64M,share=off", "-machine", "memory-backend=mine"),
			[]vmstate.Region{ram("mine", 64*mib)}},
		{"NUMA nodes", machineArgs("-smp", "2", "-m", "128", "-object", "memory-backend-ram,id=near,size=64M", "-object", "memory-backend-memfd,id=far,size=64M,seal=on",
			"-numa", "node,memdev=near,cpus=0", "-numa", "node,memdev=far,cpus=1"), []vmstate.Region{ram("near", 64*mib), ram("far", 64*mib)}},
		{"JSON objects", machineArgs("-m", "64", "-object", `{"qom-type":"memory-backend-ram","id":"json","size":67108864,"prealloc":false}`,
			"-machine", "memory-backend=json", "-device", `{"driver":"virtio-rng-pci","id":"rng"}`), []vmstate.Region{ram("json", 64*mib)}},
		{"a DIMM besides -m", machineArgs("-m", "64M,slots=2,maxmem=1G", "-object", "memory-backend-ram,id=more,size=128M", "-device", "pc-dimm,id=d0,memdev=more"),
			[]vmstate.Region{ram("pc.ram", 64*mib), ram("more", 128*mib)}},
		{"a file that discards its data", machineArgs("-m", "64", "-object", "memory-backend-file,id=m,size=64M,mem-path=/dev/shm,share=on,discard-data=on", "-machine", "memory-backend=m"),
			[]vmstate.Region{ram("m", 64*mib)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			vm := begin(t, l, vmstate.VMSpec{Args: tt.args})
			checkRAM(t, vm, tt.want)
			for _, a := range vm.Argv {
				if strings.Contains(a.Value, "discard-data") || strings.Contains(a.Was, "discard-data") && !strings.Contains(a.Why, "would wipe the RAM") {
					t.Errorf("QEMU is told to discard the guest's memory, or nothing says why it is not: %+v", a)
				}
			}
			m := handOver(t, l, vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(env.Newest)})
			after, err := l.Client.VM(t.Context(), vm.Name)
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range after.Regions {
				if before := vm.Regions[i]; r.Inode != before.Inode || r.OwnerPID != m.To.PID || r.State != vmstate.Released {
					t.Errorf("region %+v was %+v", r, before)
				}
				if got := mappedShared(t, after.PID, r.Inode); got < r.SizeBytes {
					t.Errorf("the target maps %d of the %d bytes of %s", got, r.SizeBytes, r.Name)
				}
			}
			remove(t, l, vm.Name)
		})
	}
}

// prealloc, in whatever form, is done by the daemon before QEMU starts.
func TestPrealloc(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	for name, args := range map[string][]string{
		"-mem-prealloc": machineArgs("-m", "64", "-mem-prealloc"),
		"prealloc=on":   machineArgs("-m", "64", "-object", "memory-backend-ram,id=m,size=64M,prealloc=on,prealloc-threads=2", "-machine", "memory-backend=m"),
		"JSON":          machineArgs("-m", "64", "-object", `{"qom-type":"memory-backend-memfd","id":"m","size":67108864,"prealloc":true}`, "-machine", "memory-backend=m"),
		"not asked for": machineArgs("-m", "64"),
	} {
		t.Run(name, func(t *testing.T) {
			vm := begin(t, l, vmstate.VMSpec{Args: args})
			if got := allocated(t, vm.PID, vm.Regions[0]); (got == 64*mib) == (name == "not asked for") {
				t.Errorf("%d bytes are allocated", got)
			}
			for _, a := range vm.Argv {
				if !a.Dropped && (a.Value == "-mem-prealloc" || a.Value != a.Was && a.Was != "" && strings.Contains(a.Value, "prealloc")) {
					t.Errorf("QEMU itself is asked to allocate: %+v", a)
				}
			}
			remove(t, l, vm.Name)
		})
	}
}

// A guest without RAM that could be handed over, or with RAM that cannot be, is refused before anything is started.
func TestRAMRefused(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	gib := fmt.Sprint(1 << 20) // MiB: more than any host of these tests has
	for _, tt := range []struct {
		name string
		spec vmstate.VMSpec
		kind vmstate.Kind
		says []string
	}{
		{"more than the host has", vmstate.VMSpec{Args: machineArgs("-m", gib)}, vmstate.Exhausted, []string{"bytes of RAM", "make the guest smaller"}},
		{"no RAM", vmstate.VMSpec{Args: machineArgs("-m", "0")}, vmstate.Invalid, []string{"-m 0"}},
		{"no such size", vmstate.VMSpec{Args: machineArgs("-m", "lots")}, vmstate.Invalid, []string{"-m lots"}},
		{"no such backing", vmstate.VMSpec{Args: machineArgs("-m", "64"), Memory: vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: "/tmp"}}, vmstate.Invalid, []string{"/tmp", "mount -t hugetlbfs"}},
		{"a path without hugetlbfs", vmstate.VMSpec{Args: machineArgs("-m", "64"), Memory: vmstate.MemorySpec{Path: "/dev/shm"}}, vmstate.Invalid, []string{"/dev/shm", "hugetlbfs"}},
		{"a page size that there is not", vmstate.VMSpec{Args: machineArgs("-m", "64"), Memory: vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: 1 << 22}}, vmstate.Unsupported, []string{"4 MiB", "2 MiB"}},
		{"a file's content as RAM", vmstate.VMSpec{Args: machineArgs("-m", "1", "-object", "memory-backend-file,id=m,size=1M,mem-path=/proc/version", "-machine", "memory-backend=m")},
			vmstate.Unsupported, []string{"/proc/version"}},
		{"RAM that cannot be written", vmstate.VMSpec{Args: machineArgs("-m", "64", "-object", "memory-backend-file,id=m,size=64M,mem-path=/dev/shm,readonly=on", "-machine", "memory-backend=m")},
			vmstate.Unsupported, []string{"readonly"}},
		{"persistent memory", vmstate.VMSpec{Args: machineArgs("-m", "64", "-object", "memory-backend-file,id=m,size=64M,mem-path=/dev/shm,pmem=on", "-machine", "memory-backend=m")},
			vmstate.Unsupported, []string{"pmem"}},
		{"a confidential guest", vmstate.VMSpec{Args: machineArgs("-m", "64", "-object", "sev-guest,id=sev0", "-machine", "confidential-guest-support=sev0")}, vmstate.Unsupported, []string{"confidential"}},
		{"memory that nothing uses", vmstate.VMSpec{Args: machineArgs("-m", "64", "-object", "memory-backend-ram,id=idle,size=32M")}, vmstate.Unsupported, []string{"idle"}},
		{"NUMA nodes by size alone", vmstate.VMSpec{Args: machineArgs("-m", "64", "-numa", "node,mem=32M", "-numa", "node,mem=32M")}, vmstate.Unsupported, []string{"-numa", "memdev"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := look(t, l)
			tt.spec.Name, tt.spec.Binary = "vm1", l.Env.QEMU(env.Installed)
			_, err := l.Client.StartVM(t.Context(), tt.spec)
			refused(t, err, tt.kind, tt.says...)
			if after := look(t, l); after != before {
				t.Errorf("something is left: %+v, before %+v", after, before)
			}
		})
	}
}

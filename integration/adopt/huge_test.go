package adopt_test

import (
	"os"
	"path/filepath"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// A stranger's huge pages are handed over as they are: no free huge page is needed for it. The name of a file is its maker's, and stays.
func TestHugePages(t *testing.T) {
	mount := lab.HugePages(t, 16)
	l := lab.New(t, lab.Options{NoTree: true})
	file := filepath.Join(mount, "ram")
	for _, tt := range []struct {
		name, version, backend string
		backing                vmstate.Backing
	}{
		{"a file on hugetlbfs", env.Installed, "memory-backend-file,share=on,mem-path=" + file, vmstate.Hugetlbfs},
		{"an unlinked file there", env.Stable, "memory-backend-file,share=on,mem-path=" + mount, vmstate.Hugetlbfs},
		{"a memfd", env.Stable, "memory-backend-memfd,hugetlb=on,hugetlbsize=2M", vmstate.Hugetlb},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, l, tt.version, "-qmp", "unix:qmp,server=on,wait=off", "-machine", "pc-q35-7.2,memory-backend=ram0", "-m", "32", "-object", tt.backend+",id=ram0,size=32M").up()
			was := s.adopt("vm1").Adoption.Regions[0]
			if was.Backing != tt.backing || was.PageBytes != 2*mib || was.Mode != vmstate.ModeShared {
				t.Errorf("the region is %+v", was)
			}
			for _, version := range []string{env.Backport, env.Installed} {
				s.handOver(vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(version)})
			}
			vm, err := l.Client.VM(t.Context(), "vm1")
			if err != nil || len(vm.Regions) != 1 || vm.Regions[0].Inode != was.Inode || vm.Regions[0].Backing != tt.backing {
				t.Errorf("its RAM is %+v, %v", vm.Regions, err)
			}
			if err := l.Client.RemoveVM(t.Context(), "vm1", true); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(file); tt.name == "a file on hugetlbfs" && err != nil {
				t.Errorf("the file has lost its name: %v", err)
			}
			_ = os.Remove(file) // its pages are wanted for the next guest; only the first has it
		})
	}
}

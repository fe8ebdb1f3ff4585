package start_test

import (
	"fmt"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// The daemon dies under a guest whose RAM takes every huge page of the host. The next one finds the RAM again, a memfd in its QEMU and a file by its name; the
// guest is handed over on it, by two daemons, and in the end every page is free.
func TestHugePagesAfterTheDaemon(t *testing.T) {
	const pages = 128
	for _, backing := range []vmstate.Backing{vmstate.Hugetlb, vmstate.Hugetlbfs} {
		t.Run(string(backing), func(t *testing.T) {
			wantPool(t, pages)
			memory := vmstate.MemorySpec{Backing: backing}
			if backing == vmstate.Hugetlbfs {
				memory.Path = hugetlbfs(t, "pagesize=2M")
			}
			d := lab.NewDaemon(t, lab.DaemonOptions{NoTree: true})
			vm := d.Boot(lab.Spec{Memory: memory, Guest: small()})
			before := vm.Show()
			d.Restart()
			after := vm.Show()
			r, had := after.Regions[0], before.Regions[0]
			if after.PID != before.PID || r.Inode != had.Inode || r.Backing != backing || r.PageBytes != 2*mib || r.SizeBytes != 256*mib {
				t.Errorf("the VM was %+v\nand is %+v", before, after)
			}
			vm.HandOver(env.Newest, "")
			d.Restart()
			vm.HandOver(env.Backport, "")
			if got := vm.Show().Regions[0].Inode; got != before.Regions[0].Inode {
				t.Errorf("the RAM is inode %d, was %d", got, before.Regions[0].Inode)
			}
			if pool := poolOf(t, 2*mib); pool.Available() != 0 || pool.Surplus != 0 {
				t.Errorf("the pool is %+v: all of it should be the guest's", pool)
			}
			vm.CheckMemory()
			d.Restart()
			remove(t, d.Lab, vm.Name)
			await(t, "the huge pages are free", lab.Limit, func() error {
				if pool := poolOf(t, 2*mib); pool.Available() != pages {
					return fmt.Errorf("the pool is %+v", pool)
				}
				return nil
			})
		})
	}
}

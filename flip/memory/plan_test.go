package memory

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"qlive/vmstate"
)

const usualMeminfo = `MemTotal:        8388608 kB
MemFree:         4194304 kB
MemAvailable:    4194304 kB
Hugepagesize:       2048 kB
Hugetlb:         1048576 kB
`

func poolFiles(kib string, values ...string) map[string]string {
	files := map[string]string{}
	for i, name := range []string{"nr_hugepages", "free_hugepages", "resv_hugepages", "surplus_hugepages", "nr_overcommit_hugepages"} {
		files["hugepages/hugepages-"+kib+"kB/"+name] = values[i]
	}
	return files
}

func merge(maps ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range maps {
		for k, v := range m {
			all[k] = v
		}
	}
	return all
}

func TestPlan(t *testing.T) {
	h := fakeHost(t, usualMeminfo, merge(
		poolFiles("2048", "16", "16", "0", "0", "0"), poolFiles("1048576", "0", "0", "0", "0", "0")))
	const kib, gib = 1 << 10, 1 << 30
	for _, c := range []struct {
		name    string
		spec    vmstate.MemorySpec
		vm      string
		want    Want
		backing vmstate.Backing
		page    uint64
		kind    vmstate.Kind // of the refusal
		words   []string
	}{
		{name: "nothing said", want: Want{SizeBytes: mib}, backing: vmstate.Memfd, page: 4096},
		{name: "memfd", spec: vmstate.MemorySpec{Backing: vmstate.Memfd}, want: Want{SizeBytes: 4096}, backing: vmstate.Memfd, page: 4096},
		{name: "memfd of ordinary pages by name", spec: vmstate.MemorySpec{PageBytes: 4096}, want: Want{SizeBytes: 4096}, backing: vmstate.Memfd, page: 4096},
		{name: "the default huge page", spec: vmstate.MemorySpec{Backing: vmstate.Hugetlb}, want: Want{SizeBytes: 4 * mib}, backing: vmstate.Hugetlb, page: 2 * mib},
		{name: "1 GiB pages", spec: vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: gib}, want: Want{SizeBytes: 2 * gib}, backing: vmstate.Hugetlb, page: gib},
		{name: "a block of huge pages among ordinary ones", want: Want{SizeBytes: 4 * mib, PageBytes: 2 * mib}, backing: vmstate.Hugetlb, page: 2 * mib},
		{name: "a block of ordinary pages among huge ones", spec: vmstate.MemorySpec{Backing: vmstate.Hugetlb}, want: Want{SizeBytes: 4 * kib, PageBytes: 4096}, backing: vmstate.Memfd, page: 4096},
		{name: "the block's page before the spec's", spec: vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: gib}, want: Want{SizeBytes: 4 * mib, PageBytes: 2 * mib}, backing: vmstate.Hugetlb, page: 2 * mib},

		{name: "a bad VM name", vm: "../vm", want: Want{SizeBytes: mib}, kind: vmstate.Invalid, words: []string{"../vm"}},
		{name: "an unknown backing", spec: vmstate.MemorySpec{Backing: "shm"}, want: Want{SizeBytes: mib}, kind: vmstate.Invalid, words: []string{"shm", "hugetlbfs"}},
		{name: "a path without hugetlbfs", spec: vmstate.MemorySpec{Path: "/dev/hugepages"}, want: Want{SizeBytes: mib}, kind: vmstate.Invalid, words: []string{"/dev/hugepages"}},
		{name: "huge pages in a memfd", spec: vmstate.MemorySpec{PageBytes: 2 * mib}, want: Want{SizeBytes: 2 * mib}, kind: vmstate.Invalid, words: []string{"2 MiB", "backing hugetlb"}},
		{name: "ordinary pages in hugetlb", spec: vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: 4096}, want: Want{SizeBytes: mib}, kind: vmstate.Invalid, words: []string{"4 KiB", "backing memfd"}},
		{name: "a huge page the host lacks", spec: vmstate.MemorySpec{Backing: vmstate.Hugetlb, PageBytes: 64 * kib}, want: Want{SizeBytes: mib}, kind: vmstate.Unsupported, words: []string{"64 KiB", "2 MiB", "1 GiB"}},
		{name: "a page that is no power of two", want: Want{SizeBytes: 4 * mib, PageBytes: 2*mib + 512}, kind: vmstate.Unsupported},
		{name: "no size", want: Want{}, kind: vmstate.Invalid, words: []string{"0 bytes"}},
		{name: "more than a process can map", want: Want{SizeBytes: 1 << 63}, kind: vmstate.Invalid},
		{name: "half a page", want: Want{SizeBytes: 4097}, kind: vmstate.Invalid, words: []string{"ram0", "4097", "4096", "make it 4096 or 8192"}},
		{name: "half a huge page", spec: vmstate.MemorySpec{Backing: vmstate.Hugetlb}, want: Want{SizeBytes: 3 * mib}, kind: vmstate.Invalid, words: []string{"ram0", "3145728", "2097152", "make it 2097152 or 4194304"}},
		{name: "hugetlbfs without a path", spec: vmstate.MemorySpec{Backing: vmstate.Hugetlbfs}, want: Want{SizeBytes: 2 * mib}, kind: vmstate.Invalid, words: []string{"/dev/hugepages"}},
		{name: "hugetlbfs at a relative path", spec: vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: "huge"}, want: Want{SizeBytes: 2 * mib}, kind: vmstate.Invalid, words: []string{"huge"}},
		{name: "hugetlbfs at a path that is not", spec: vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: "/no/such"}, want: Want{SizeBytes: 2 * mib}, kind: vmstate.Invalid, words: []string{"/no/such"}},
		{name: "hugetlbfs that is none", spec: vmstate.MemorySpec{Backing: vmstate.Hugetlbfs, Path: "/proc"}, want: Want{SizeBytes: 2 * mib}, kind: vmstate.Invalid, words: []string{"/proc", "mount -t hugetlbfs"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.vm == "" {
				c.vm = "vm1"
			}
			c.want.Name = "ram0"
			plans, err := h.plan(c.spec, c.vm, []Want{c.want})
			if c.kind != "" {
				checkKind(t, err, c.kind, c.words...)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p := plans[0]; p.backing != c.backing || p.pageBytes != c.page || p.fileName != "qlive-vm1-ram0" {
				t.Errorf("planned %s of pages of %d named %s, want %s of %d", p.backing, p.pageBytes, p.fileName, c.backing, c.page)
			}
		})
	}
}

func TestPlanRefusesBlocksWithoutNamesOfTheirOwn(t *testing.T) {
	h := fakeHost(t, usualMeminfo, nil)
	for name, wants := range map[string][]Want{
		"none":    nil,
		"unnamed": {{SizeBytes: mib}},
		"twice":   {{Name: "a", SizeBytes: mib}, {Name: "b", SizeBytes: mib}, {Name: "a", SizeBytes: mib}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.plan(vmstate.MemorySpec{}, "vm1", wants)
			checkKind(t, err, vmstate.Invalid, "vm1")
		})
	}
}

func TestFileName(t *testing.T) {
	for _, c := range []struct{ vm, block, want string }{
		{"vm1", "pc.ram", "qlive-vm1-pc.ram"},
		{"web.shop_2", "/objects/ram-node0", "qlive-web.shop_2-%2Fobjects%2Fram%2Dnode0"},
		{"vm1", "a\x00\né%", "qlive-vm1-a%00%0A%C3%A9%25"},
	} {
		if got := fileName(c.vm, c.block); got != c.want {
			t.Errorf("fileName(%q, %q) = %q, want %q", c.vm, c.block, got, c.want)
		}
	}
}

func TestFileNamesAreSafeAndNeverMeet(t *testing.T) {
	vm := rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,62}`)
	block := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z/-]{1,4}`), rapid.StringMatching(`[a/]{100,255}`))
	rapid.Check(t, func(t *rapid.T) {
		vm1, vm2, block1, block2 := vm.Draw(t, "vm1"), vm.Draw(t, "vm2"), block.Draw(t, "block1"), block.Draw(t, "block2")
		a, b := fileName(vm1, block1), fileName(vm2, block2)
		if (a == b) != (vm1 == vm2 && block1 == block2) {
			t.Fatalf("%q and %q", a, b)
		}
		if len(a) > 249 || strings.ContainsAny(a, "/\x00\n ") || !strings.HasPrefix(a, "qlive-"+vm1+"-") {
			t.Fatalf("%q is no name", a)
		}
	})
}

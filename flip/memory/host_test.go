package memory

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/vmstate"
)

func TestOrdinaryRAMAgainstTheHost(t *testing.T) {
	// 8 GiB in all, 1 GiB of them huge pages, 4 GiB available.
	shmem := func(text string) map[string]string {
		return map[string]string{"transparent_hugepage/shmem_enabled": text}
	}
	const never = "always within_size advise [never] deny force"
	for _, c := range []struct {
		name     string
		sizes    []uint64 // MiB
		files    map[string]string
		warnings []string // words of each
		refused  bool
	}{
		{name: "enough", sizes: []uint64{1024}},
		{name: "more than is available", sizes: []uint64{3072, 2048}, warnings: []string{"5368709120 bytes"}},
		{name: "all there is", sizes: []uint64{7168}, warnings: []string{"available"}},
		{name: "more than all there is", sizes: []uint64{4096, 3073}, refused: true},
		{name: "no transparent huge pages", sizes: []uint64{1}, files: shmem(never), warnings: []string{"set to never; to allow them: echo advise > "}},
		{name: "transparent huge pages denied", sizes: []uint64{1}, files: shmem("always within_size advise never [deny] force"), warnings: []string{"set to deny"}},
		{name: "transparent huge pages advised", sizes: []uint64{1}, files: shmem("always within_size [advise] never deny force")},
		{name: "both", sizes: []uint64{5000}, files: shmem(never), warnings: []string{"available", "never"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := fakeHost(t, usualMeminfo, c.files)
			var plans []plan
			for _, size := range c.sizes {
				plans = append(plans, plan{want: Want{SizeBytes: size * mib}, backing: vmstate.Memfd})
			}
			plans = append(plans, plan{want: Want{SizeBytes: 1 << 40}, backing: vmstate.Hugetlb}) // not counted
			warnings, err := h.checkOrdinary("vm1", plans)
			if c.refused {
				checkKind(t, err, vmstate.Exhausted, "vm1", "7517241344", "7516192768")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(warnings) != len(c.warnings) {
				t.Fatalf("warnings %q, want %d", warnings, len(c.warnings))
			}
			for i, words := range c.warnings {
				if !strings.Contains(warnings[i], words) {
					t.Errorf("warning %q does not say %q", warnings[i], words)
				}
			}
		})
	}
}

func TestHugeRAMNeedsNothingOrdinary(t *testing.T) {
	h := host{meminfo: "/no/such"}
	if _, err := h.checkOrdinary("vm1", []plan{{want: Want{SizeBytes: mib}, backing: vmstate.Hugetlbfs}}); err != nil {
		t.Error(err)
	}
}

func TestExplainNamesTheNumbersAndTheCommand(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		name  string
		page  uint64
		pool  []string // nr, free, resv, surplus, overcommit
		sizes []uint64 // pages
		words []string
	}{
		{"too few", 2 * mib, []string{"100", "60", "10", "0", "0"}, []uint64{40, 24},
			[]string{"cannot reserve 64 huge pages of 2 MiB for vm1: 50 of the pool's 100", "60 free, 10 of them reserved", "sysctl vm.nr_hugepages=114"}},
		{"surplus pages count", 2 * mib, []string{"12", "2", "0", "2", "10"}, []uint64{20}, // 10 own, 2 of 10 surplus
			[]string{"10 of the pool's 12", "sysctl vm.nr_hugepages=20"}},
		{"gigantic pages", gib, []string{"0", "0", "0", "0", "0"}, []uint64{2},
			[]string{"2 huge pages of 1 GiB", "echo 2 > ", "hugepages-1048576kB/nr_hugepages", "hugepagesz=1G hugepages=2"}},
		{"a limit elsewhere", 2 * mib, []string{"100", "100", "0", "0", "0"}, []uint64{50},
			[]string{"50 huge pages", "size limit of the hugetlbfs mount", "cgroup"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := fakeHost(t, usualMeminfo, merge(poolFiles("2048", c.pool...), poolFiles("1048576", c.pool...)))
			plans := []plan{{want: Want{Name: "rom", SizeBytes: 4096}, backing: vmstate.Memfd, pageBytes: 4096}}
			for _, n := range c.sizes {
				plans = append(plans, plan{want: Want{Name: "ram", SizeBytes: n * c.page}, backing: vmstate.Hugetlb, pageBytes: c.page})
			}
			err := h.explain(&shortage{plan: plans[1], err: unix.ENOMEM}, "vm1", plans)
			checkKind(t, err, vmstate.Exhausted, c.words...)
		})
	}
}

func TestUnreadableHostIsAnError(t *testing.T) {
	empty := fakeHost(t, "", poolFiles("2048", "many", "0", "0", "0", "0"))
	_, err := empty.checkOrdinary("vm1", []plan{{want: Want{SizeBytes: mib}, backing: vmstate.Memfd}})
	checkKind(t, err, vmstate.Host, "MemTotal")
	_, err = empty.pool(2 * mib)
	checkKind(t, err, vmstate.Host, "huge page pool")
	_, err = empty.pool(64 << 10)
	checkKind(t, err, vmstate.Host, "huge page pool")
	_, err = empty.plan(vmstate.MemorySpec{Backing: vmstate.Hugetlb}, "vm1", []Want{{Name: "a", SizeBytes: 2 * mib}})
	checkKind(t, err, vmstate.Host, "Hugepagesize")
}

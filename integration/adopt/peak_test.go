package adopt_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
)

// peak samples what memory a guest and its QEMUs take, as long as it is watched.
type peak struct {
	t      *testing.T
	source int
	at     proc.Range // where the source has the guest's RAM, private to it
	end    chan struct{}
	told   chan usage
}

// usage is memory in bytes: of the guest's RAM, in the source's own pages and in files of qlive's, and what the QEMUs have for themselves.
type usage struct {
	ram, own uint64
	samples  int
}

// watchPeak watches the guest of a stranger's with so much RAM, and all QEMUs that qlive starts for it in this process. Before them it sees the source
// have all of it.
func (s *stranger) watchPeak(size uint64) *peak {
	s.t.Helper()
	maps, err := proc.ReadMaps(s.pid())
	if err != nil {
		s.t.Fatal(err)
	}
	p := &peak{t: s.t, source: s.pid(), end: make(chan struct{}), told: make(chan usage)}
	for _, m := range maps {
		if m.Inode == 0 && m.Write && m.Len() >= size && m.Len() < size+size/4 {
			p.at = proc.Range{Start: m.Start, End: m.End}
		}
	}
	if p.at == (proc.Range{}) {
		s.t.Fatal("the guest's RAM is not among the mappings of its QEMU")
	}
	go p.run()
	return p
}

func (p *peak) run() {
	var most usage
	for {
		now := p.sample()
		most = usage{max(most.ram, now.ram), max(most.own, now.own), most.samples + 1}
		select {
		case <-p.end:
			p.told <- most
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// stop ends it and tells the most that there was of each.
func (p *peak) stop() usage {
	close(p.end)
	return <-p.told
}

// sample counts a file once, whoever has it open, and what its pages are, not who has mapped them: AnonPages, Shmem and huge pages, for these alone.
func (p *peak) sample() (u usage) {
	files := make(map[uint64]bool)
	count := func(pid string) {
		dir := "/proc/" + pid + "/fd/"
		entries, _ := os.ReadDir(dir) // none of one that has ended
		for _, e := range entries {
			var st unix.Stat_t
			if link, err := os.Readlink(dir + e.Name()); err != nil || !strings.HasPrefix(link, "/memfd:qlive-") || unix.Stat(dir+e.Name(), &st) != nil || files[st.Ino] {
				continue
			}
			files[st.Ino] = true
			u.ram += uint64(st.Blocks) * 512
		}
	}
	if tables, err := proc.OpenPagemap(p.source); err == nil {
		if kept, err := tables.PresentBytes(p.at); err == nil {
			u.ram += kept
		}
		tables.Close()
	}
	kept := u.ram
	count("self")
	for _, pid := range children() {
		s, err := proc.ReadStatus(atoi(p.t, pid))
		if err != nil {
			continue
		}
		u.own += s.RSSAnon + s.PageTables
		count(pid)
	}
	u.own -= min(kept, u.own)
	return u
}

// children are the processes that this one has started.
func children() []string {
	var all []string
	tasks, _ := os.ReadDir("/proc/self/task") // it is there
	for _, task := range tasks {
		text, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		all = append(all, strings.Fields(string(text))...)
	}
	return all
}

// checkPeak sees that there was no second copy of the guest's RAM at any time.
func checkPeak(t *testing.T, u usage, size uint64) {
	t.Helper()
	text := fmt.Sprintf("at the most %d MiB of the guest's RAM of %d MiB, and %d MiB for the QEMUs themselves, in %d samples", u.ram/mib, size/mib, u.own/mib, u.samples)
	t.Log(text)
	if u.ram > size+size/10+64*mib || u.ram < size/2 || u.samples < 20 {
		t.Error(text)
	}
}

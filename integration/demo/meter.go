package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/vmstate"
)

// held is the memory of the host that the run holds.
type held struct {
	RAM uint64 // allocated for guest RAM, which every QEMU maps and which is there once
	Own uint64 // private pages and page tables of the daemon and of every QEMU
}

func (h held) total() uint64 { return h.RAM + h.Own }

// sampleEvery is how often memory is looked at.
const sampleEvery = 5 * time.Millisecond

// meter finds the most memory that was held at a time. It asks what each process holds, and not what the host has left, which
// changes with all else that goes on.
type meter struct {
	daemon int
	files  []string // the files of guest RAM, as the daemon holds them

	mu    sync.Mutex
	qemus map[int]bool
	most  held

	cancel context.CancelFunc
	done   sync.WaitGroup
}

// startMeter begins to watch the daemon and the QEMU that has the guest.
func startMeter(daemon int, v vmstate.VM) (*meter, error) {
	m := &meter{daemon: daemon, qemus: map[int]bool{v.PID: true}}
	for _, r := range v.Regions {
		file, err := heldBy(daemon, r.Inode)
		if err != nil {
			return nil, err
		}
		m.files = append(m.files, file)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	m.now()
	m.done.Go(func() {
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				m.now()
			case <-ctx.Done():
				return
			}
		}
	})
	return m, nil
}

// watch counts a QEMU from now on.
func (m *meter) watch(pid int) {
	if pid > 0 {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.qemus[pid] = true
	}
}

// now is what is held now. What has ended holds nothing.
func (m *meter) now() held {
	m.mu.Lock()
	defer m.mu.Unlock()
	var h held
	for _, file := range m.files {
		var st unix.Stat_t
		if unix.Stat(file, &st) == nil {
			h.RAM += uint64(st.Blocks) * 512 // the unit of st_blocks
		}
	}
	own := func(pid int) {
		if s, err := proc.ReadStatus(pid); err == nil {
			h.Own += s.RSSAnon + s.PageTables
		}
	}
	own(m.daemon)
	for pid := range m.qemus {
		own(pid)
	}
	if h.total() > m.most.total() {
		m.most = h
	}
	return h
}

// peak is the most that was held at a time.
func (m *meter) peak() held {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most
}

// stop ends the watch.
func (m *meter) stop() {
	m.cancel()
	m.done.Wait()
}

// heldBy is the descriptor by which a process holds the file with that inode number, as a path.
func heldBy(pid int, inode uint64) (string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", vmstate.Errorf(vmstate.Host, "cannot look at what the daemon holds: %w", err)
	}
	for _, e := range entries {
		var st unix.Stat_t
		path := dir + "/" + e.Name()
		if err := unix.Stat(path, &st); err == nil && st.Ino == inode && st.Mode&unix.S_IFMT == unix.S_IFREG {
			return path, nil
		}
	}
	return "", errors.Join(vmstate.Errorf(vmstate.Internal, "cannot find the guest's RAM, inode %d, among what the daemon holds", inode))
}

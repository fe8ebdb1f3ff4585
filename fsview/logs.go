package fsview

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"qlive/vmstate/logfile"
)

// stat is the size of the files together, and when the last of them changed; otherwise is taken where
// there is none.
func (l logText) stat(otherwise time.Time) (uint64, time.Time) {
	var total int64
	var changed time.Time
	for _, name := range l {
		info := logfile.Stat(name)
		total += info.Size()
		if info.Changed.After(changed) {
			changed = info.Changed
		}
	}
	if changed.IsZero() {
		changed = otherwise
	}
	return uint64(total), changed
}

// logHandle is an open console or qemu_log: several files on the host read as one, the last of which grows
// while others may follow it.
//
// A file counts as complete, with the size it has then, when a reader has come to its end and a later one has
// text: a guest writes in one QEMU at a time. So a reader who goes on after each end of file sees every
// generation whole and nothing twice, though files that nobody has read to the end yet still grow.
type logHandle struct {
	tree *FS
	path string

	mu    sync.Mutex
	files logText
	begin []int64 // offsets in the first files at which their text began when this reader came to them
	done  []int64 // sizes of the first files, which are complete
}

func (h *logHandle) opened() any {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.files
}

// Read is pread on the files together. It gives less than was asked for only at the end of all text: tail,
// which reads backwards, would take less for an error.
func (h *logHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.follow()
	n, base := 0, int64(0) // bytes read, and where the current file begins
	for i, name := range h.files {
		if i == len(h.begin) {
			h.begin = append(h.begin, logfile.Stat(name).Begin)
		}
		at, want := off+int64(n)-base, dest[n:]
		complete, over := i < len(h.done), false
		if complete {
			if at >= h.done[i] {
				base += h.done[i]
				continue
			}
			want = want[:min(int64(len(want)), h.done[i]-at)]
		} else {
			over = hasText(h.files[i+1:]) // before reading, so that the end found is the last
		}
		got, err := pread(name, want, h.begin[i]+at)
		if err != nil {
			return nil, syscall.EIO
		}
		if n += got; n == len(dest) || complete && got < len(want) || !complete && !over {
			break
		}
		if !complete {
			h.done = append(h.done, min(logfile.Stat(name).End-h.begin[i], at+int64(got)))
		}
		base += h.done[i]
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// follow takes notice of new generations, and of ones that came to nothing, but not of another VM under
// the same name.
func (h *logHandle) follow() {
	found, ok := h.tree.moment().at(h.path)
	if !ok {
		return
	}
	newest, ok := found.(logText)
	if n := len(h.done); ok && len(newest) > n && slices.Equal(newest[:n], h.files[:n]) {
		same := n // files that are what they were
		if len(h.files) > n && newest[n] == h.files[n] {
			same++
		}
		h.files, h.begin = newest, h.begin[:min(len(h.begin), same)]
	}
}

func hasText(files []string) bool {
	return slices.ContainsFunc(files, func(name string) bool {
		return logfile.Stat(name).Size() > 0
	})
}

// pread reads at off; nothing where there is no such file any more.
func pread(name string, dest []byte, off int64) (int, error) {
	if logfile.Stat(name).End <= off {
		return 0, nil
	}
	f, err := logfile.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := f.ReadAt(dest, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

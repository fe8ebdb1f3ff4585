package stage

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// console is what one QEMU has written of the guest's console. The file is kept open: it may be removed with its folder.
type console struct {
	generation int
	file       *os.File
	read       int64 // bytes taken in
	size       int64 // bytes that were there at this look
}

// readConsoles takes in what is new, in the order of the generations. Sizes are taken from the last to the first: what a generation has written
// before the next one began is then seen before it.
func (w *Witness) readConsoles() {
	for _, c := range slices.Backward(w.consoles) {
		if info, err := c.file.Stat(); err == nil {
			c.size = info.Size()
		}
	}
	now := time.Now()
	for _, c := range w.consoles {
		if c.size > c.read {
			w.takeIn(c, now)
		}
	}
}

func (w *Witness) takeIn(c *console, now time.Time) {
	text := make([]byte, c.size-c.read)
	n, err := c.file.ReadAt(text, c.read)
	if n == 0 && err != nil {
		w.faultf("cannot read the console of generation %d: %v", c.generation, err)
		return
	}
	c.read += int64(n)
	if w.speaker != nil && slices.Index(w.consoles, w.speaker) > slices.Index(w.consoles, c) {
		w.faultf("the guest writes %.60q in generation %d after it has written in generation %d", text[:n], c.generation, w.speaker.generation)
	} else {
		w.speaker = c
	}
	w.parser.Feed(text[:n], now)
	w.recent = append(w.recent, text[:n]...)
	w.recent = w.recent[max(0, len(w.recent)-300):]
}

// findConsoles opens the consoles that are new.
func (w *Witness) findConsoles() {
	paths, _ := filepath.Glob(filepath.Join(w.dir, "g*", "console.out")) // the pattern is right
	for _, path := range paths {
		generation, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(path)), "g"))
		if err != nil || w.has(path, generation) {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue // gone
		}
		w.consoles = append(w.consoles, &console{generation: generation, file: f})
	}
	slices.SortStableFunc(w.consoles, func(a, b *console) int { return cmp.Compare(a.generation, b.generation) })
}

// has tells whether the file at path is open already. A number is used again if a handoff came to nothing, with another file.
func (w *Witness) has(path string, generation int) bool {
	return slices.ContainsFunc(w.consoles, func(c *console) bool {
		if c.generation != generation {
			return false
		}
		now, err := os.Stat(path)
		if err != nil {
			return true // gone again
		}
		ours, err := c.file.Stat()
		return err != nil || os.SameFile(now, ours)
	})
}

package fsview

import (
	"time"

	"qlive/vmstate"
)

// What tests in package fsview_test may see.

var (
	FileName         = fileName
	ParseMountinfo   = parseMountinfo
	ParseCredentials = parseCredentials
	MountFUSE        = mountFUSE
)

// WithClock is o with another clock for the tree.
func (o Options) WithClock(now func() time.Time) Options {
	o.clock = now
	return o
}

// At finds path in the tree of s without mounting it, and tells what stands there: a folder, its names; a
// file, its text.
func At(s *vmstate.Snapshot, path string) (names []string, data string, found bool) {
	thing, found := moment{s, time.Unix(0, 0), new(refusals)}.at(path)
	switch v := thing.(type) {
	case folder:
		v.each(func(name string, _ bool) { names = append(names, name) })
	case text:
		data = string(render(v))
	}
	return names, data, found
}

// Has tells whether anything stands at path, and renders nothing.
func Has(s *vmstate.Snapshot, path string) bool {
	_, found := moment{s, time.Time{}, new(refusals)}.at(path)
	return found
}

// Refusals is how many refusals the tree remembers.
func (t *FS) Refusals() int {
	t.refusals.mu.Lock()
	defer t.refusals.mu.Unlock()
	return len(t.refusals.byVM)
}

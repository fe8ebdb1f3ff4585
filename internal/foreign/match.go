package foreign

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"

	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// Match finds among the descriptors of a QEMU those that its line has opened: for each holding their numbers, in the order of a tap's queues. Sets are
// those of -add-fd, by their number. The error says what is not there.
func Match(holdings []cmdline.Holding, held []vmstate.HeldDescriptor, sets map[int64][]int) ([][]int, error) {
	m := matcher{held: held, sets: sets, taken: map[int]bool{}, found: make([][]int, len(holdings))}
	for i, h := range holdings { // those of which the line says the number first, so that nobody else takes them
		if len(h.FDs) > 0 && h.Kind != vmstate.HeldImage {
			m.found[i] = m.take(h, func(d vmstate.HeldDescriptor) bool { return slices.Contains(h.FDs, d.FD) })
		}
	}
	for i, h := range holdings {
		switch {
		case m.found[i] != nil || h.Kind == vmstate.HeldTap && h.Name == "":
		case h.Kind == vmstate.HeldImage:
			m.found[i] = m.ofSet(h.Set)
		case h.Kind == vmstate.HeldListening:
			m.found[i] = m.listening(h)
		default:
			m.found[i] = m.take(h, func(d vmstate.HeldDescriptor) bool { return d.Name == h.Name })
		}
	}
	if err := m.unnamed(holdings); err != nil {
		return nil, err
	}
	for i, h := range holdings {
		if len(m.found[i]) != h.Count {
			return nil, notFound(h, len(m.found[i]))
		}
	}
	return m.found, nil
}

type matcher struct {
	held  []vmstate.HeldDescriptor // in the order of their numbers
	sets  map[int64][]int
	taken map[int]bool
	found [][]int
}

// take takes the first ones of the kind that are meant.
func (m *matcher) take(h cmdline.Holding, meant func(vmstate.HeldDescriptor) bool) []int {
	var list []int
	for _, d := range m.held {
		if len(list) < h.Count && d.Kind == h.Kind && !m.taken[d.FD] && meant(d) {
			m.taken[d.FD] = true
			list = append(list, d.FD)
		}
	}
	if len(h.FDs) == len(list) && len(list) > 0 {
		return h.FDs // in the line's order
	}
	return list
}

// ofSet is the next descriptor of a set: each -add-fd has added one.
func (m *matcher) ofSet(set int64) []int {
	for i, fd := range m.sets[set] {
		if !m.taken[fd] {
			m.taken[fd] = true
			return m.sets[set][i : i+1]
		}
	}
	return nil
}

// listening finds the socket of a port, by its address as far as that is numbers. A name may stand for several; a character device can be given one
// alone, and that of IPv4 is taken.
func (m *matcher) listening(h cmdline.Holding) []int {
	at := strings.LastIndexByte(h.Name, ':')
	host, port := strings.Trim(h.Name[:max(at, 0)], "[]"), h.Name[at+1:]
	fits := func(d vmstate.HeldDescriptor) bool {
		h, p, err := net.SplitHostPort(d.Name)
		if err != nil || p != port {
			return false
		}
		want, is := net.ParseIP(host), net.ParseIP(h)
		return want == nil || want.Equal(is)
	}
	if four := m.take(h, func(d vmstate.HeldDescriptor) bool { return fits(d) && !strings.HasPrefix(d.Name, "[") }); four != nil {
		return four
	}
	return m.take(h, fits)
}

// unnamed gives each tap whose interface the kernel has named the next interface that is left, as QEMU has opened them one after another.
func (m *matcher) unnamed(holdings []cmdline.Holding) error {
	option := ""
	for i, h := range holdings {
		if h.Kind != vmstate.HeldTap || h.Name != "" || m.found[i] != nil {
			continue
		}
		if option = cmp.Or(option, h.Option); option != h.Option {
			return vmstate.Errorf(vmstate.Unsupported, "cannot tell the taps of -%s from those of -%s: the line names no interfaces", option, h.Option).
				With("name them by ifname=")
		}
		name := ""
		m.found[i] = m.take(h, func(d vmstate.HeldDescriptor) bool {
			name = cmp.Or(name, d.Name)
			return d.Name == name
		})
	}
	return nil
}

func notFound(h cmdline.Holding, n int) error {
	what, remedy := fmt.Sprintf("interface %s, with %d queues", cmp.Or(h.Name, "of -"+h.Option), h.Count), "has it been removed, or renamed?"
	switch h.Kind {
	case vmstate.HeldListening:
		what, remedy = "socket that listens on "+cmp.Or(h.Name, fmt.Sprint("descriptor ", h.FDs)), "name the port that it listens on, without to="
	case vmstate.HeldImage:
		what, remedy = fmt.Sprintf("descriptor of the set %d", h.Set), "QEMU closes one that nobody uses"
	}
	return vmstate.Errorf(vmstate.Unsupported, "cannot hand the %s on: the QEMU that has the guest has %d of %d descriptors of it", what, n, h.Count).With(remedy)
}

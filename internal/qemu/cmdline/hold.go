package cmdline

import (
	"slices"
	"strconv"
	"strings"

	"qlive/vmstate"
)

// Holding is something that a line opens and that one process alone can open: the QEMU that has the guest holds it, and the next one gets it from
// there by descriptor.
type Holding struct {
	Kind vmstate.HeldKind // tap, listening, or image: a descriptor of -add-fd
	// Name is the interface, or HOST:PORT, as the line has it; empty where QEMU finds one.
	Name string
	// FDs are the numbers of the descriptors in a QEMU with this line, where it says them, in the order of a tap's queues.
	FDs   []int
	Count int // how many there are
	// VhostFDs are those of /dev/vhost-net, which serve one process and are opened anew for the next.
	VhostFDs []int
	Option   string // that it stands in, without dashes
	// Script: QEMU runs a script as it ends, which is there to take the interface down.
	Script bool
	Set    int64 // of -add-fd
}

// Holdings are those of a line, in its order, which is the same in the lines of every generation. Listeners are the unix sockets among the
// descriptors that the line names, see [Facts]; nil for a line of qlive's.
func Holdings(args []string, listeners map[string]string) ([]Holding, error) {
	opts, err := parse(args)
	if err != nil {
		return nil, err
	}
	var list []Holding
	for _, o := range opts {
		h, err := holding(o, listeners)
		if err != nil {
			return nil, err
		}
		if h.Kind != "" {
			h.Option = o.name
			list = append(list, h)
		}
	}
	return list, nil
}

func holding(o option, listeners map[string]string) (Holding, error) {
	switch o.name {
	case "netdev", "nic", "net":
		p, err := read(o, "type")
		if err != nil || !isTap(p) {
			return Holding{}, err
		}
		return tapOf(o, p)
	case "chardev":
		p, err := read(o, "backend")
		if err != nil || p.str("backend") != "socket" || !p.on("server") {
			return Holding{}, err
		}
		return portOf(o, p, listeners)
	case "serial", "parallel", "debugcon", "monitor", "qmp", "qmp-pretty":
		p := oldPort(strings.TrimPrefix(o.value, "mon:"))
		if p == nil || !p.on("server") {
			return Holding{}, nil
		}
		return Holding{Kind: vmstate.HeldListening, Name: p.str("addr"), Count: 1}, nil
	case "add-fd":
		p, err := read(o, "fd")
		if err != nil {
			return Holding{}, err
		}
		set, err := strconv.ParseInt(p.str("set"), 10, 64)
		if err != nil {
			return Holding{}, invalid(o, "its set is no number", "write set=N")
		}
		fds, err := numbers(o, p, "fd")
		return Holding{Kind: vmstate.HeldImage, FDs: fds, Count: 1, Set: set}, err
	}
	return Holding{}, nil
}

func isTap(p *props) bool { return p.str("type") == "tap" || p.str("type") == "bridge" }

// tapOf is what a tap's option opens (net/tap.c).
func tapOf(o option, p *props) (h Holding, err error) {
	h = Holding{Kind: vmstate.HeldTap, Name: p.str("ifname"), Count: 1}
	if h.FDs, err = numbers(o, p, "fd", "fds"); err != nil {
		return h, err
	}
	if h.VhostFDs, err = numbers(o, p, "vhostfd", "vhostfds"); err != nil {
		return h, err
	}
	if strings.Contains(h.Name, "%") { // the kernel numbers it
		h.Name = ""
	}
	switch n, err := strconv.Atoi(p.str("queues")); {
	case len(h.FDs) > 0:
		h.Count = len(h.FDs)
	case p.has("queues") && (err != nil || n < 1 || n > mostQueues):
		return h, invalid(o, "queues is no number from 1 to "+strconv.Itoa(mostQueues), "write queues=N")
	case p.has("queues"):
		h.Count = n
	}
	h.Script = p.str("type") == "tap" && len(h.FDs) == 0 && !p.has("br") && !p.has("helper") && p.str("downscript") != "no"
	return h, nil
}

// mostQueues is what a tap can have (MAX_TAP_QUEUES in net/tap.h of QEMU).
const mostQueues = 1024

// portOf is the socket that a character device listens on, unless that is one of a unix socket's.
func portOf(o option, p *props, listeners map[string]string) (Holding, error) {
	switch {
	case p.has("fd") && listeners[p.str("fd")] == "":
		fds, err := numbers(o, p, "fd")
		return Holding{Kind: vmstate.HeldListening, FDs: fds, Count: 1}, err
	case p.has("port"):
		return Holding{Kind: vmstate.HeldListening, Name: p.str("host") + ":" + p.str("port"), Count: 1}, nil
	}
	return Holding{}, nil
}

// oldPort are the properties of a TCP socket in QEMU's old notation, such as telnet:HOST:PORT,server,nowait, its address under addr; nil if it is none.
func oldPort(dev string) *props {
	kind, rest, _ := strings.Cut(dev, ":")
	if !slices.Contains(ports(), kind) {
		return nil
	}
	p, err := parseProps(rest, "addr")
	if err != nil {
		return nil
	}
	return p
}

// ports are the kinds of character devices on a TCP port, in the old notation.
func ports() []string { return []string{"tcp", "telnet", "tn3270", "websocket"} }

// numbers are those of descriptors, separated by colons, under any of the keys.
func numbers(o option, p *props, keys ...string) ([]int, error) {
	var list []int
	for _, key := range keys {
		value, ok := p.get(key)
		if !ok {
			continue
		}
		for word := range strings.SplitSeq(value, ":") {
			n, err := strconv.Atoi(word)
			if err != nil || n < 0 {
				return nil, refuse(o, quote(word)+" is not the number of a descriptor", "name the tap by ifname=, the socket by path= or port=")
			}
			list = append(list, n)
		}
	}
	return list, nil
}

// given takes the numbers of n further descriptors that the QEMU gets from the one that has the guest.
func (r *rewriter) given(n int) []int {
	first := r.place.FirstFD + len(r.s.ramObjects) + r.handed
	if r.plainRAM() {
		first++
	}
	r.handed += n
	list := make([]int, n)
	for i := range list {
		list[i] = first + i
	}
	return list
}

// colons writes numbers of descriptors.
func colons(list []int) string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = strconv.Itoa(n)
	}
	return strings.Join(words, ":")
}

const (
	whyGiven    = "the next QEMU gets it by descriptor from the one that has the guest"
	notThere    = "the descriptors of the caller are not there in the QEMU that qlive starts"
	whyPortLate = "it is opened once the QEMU that has it has ended"
)

// tap hands the interface on. No script runs: it is up, and stays up.
func (r *rewriter) tap(o option, p *props) (edit, error) {
	h, err := tapOf(o, p)
	if err != nil {
		return edit{}, err
	}
	if !r.place.Incoming {
		if len(h.FDs)+len(h.VhostFDs) > 0 {
			return edit{}, refuse(o, notThere, "name the interface by ifname=")
		}
		return keep()
	}
	vhost := p.on("vhost") || len(h.VhostFDs) > 0
	for _, key := range []string{"fd", "fds", "vhostfd", "vhostfds", "ifname", "script", "downscript", "br", "helper", "queues", "vnet_hdr"} {
		p.remove(key)
	}
	p.set("type", "tap")
	r.setFDs(p, "fd", h.Count)
	if vhost && r.place.Vhost {
		r.setFDs(p, "vhostfd", h.Count)
	}
	return change(p.String(), whyGiven)
}

// setFDs takes n descriptors for the key, or for its plural.
func (r *rewriter) setFDs(p *props, key string, n int) {
	if n > 1 {
		key += "s"
	}
	p.set(key, colons(r.given(n)))
}

// addFD hands a descriptor of the starter's on.
func (r *rewriter) addFD(o option) (edit, error) {
	if !r.place.Incoming {
		return edit{}, refuse(o, notThere, "name the files by their paths")
	}
	p, err := read(o, "fd")
	if err != nil {
		return edit{}, err
	}
	if _, err := holding(o, nil); err != nil {
		return edit{}, err
	}
	p.set("fd", colons(r.given(1)))
	return change(p.String(), whyGiven)
}

// port hands the listening socket of a character device on.
func (r *rewriter) port(p *props) (edit, error) {
	if !r.place.Incoming {
		if noWait(p) {
			return r.keepLog(p, []string{"wait=off: " + whyNoWait})
		}
		return r.keepLog(p, nil)
	}
	for _, key := range []string{"host", "port", "to", "ipv4", "ipv6", "fd"} {
		p.remove(key)
	}
	p.set("fd", colons(r.given(1)))
	noWait(p)
	return r.keepLog(p, []string{whyGiven})
}

// oldPort does the same for one in the old notation, which cannot name a descriptor.
func (r *rewriter) oldPort(o option, dev string, p *props) (edit, error) {
	kind, _, _ := strings.Cut(dev, ":")
	before := strings.TrimSuffix(o.value, dev)
	if !r.place.Incoming {
		if !noWait(p) {
			return keep()
		}
		return change(before+kind+":"+p.String(), "wait=off: "+whyNoWait)
	}
	id := "qlive-port" + strconv.Itoa(o.at)
	if o.name == "debugcon" {
		id = "debugcon"
	}
	for _, key := range []string{"addr", "server", "wait", "to", "ipv4", "ipv6"} {
		p.remove(key)
	}
	value := "socket,id=" + id + ",fd=" + colons(r.given(1)) + ",server=on,wait=off"
	if kind != "tcp" {
		value += "," + kind + "=on"
	}
	if len(p.parts) > 0 {
		value += "," + p.String()
	}
	if before == "mon:" {
		value += ",mux=on"
	}
	r.add(whyGiven, "-chardev", value)
	if before == "mon:" {
		r.add(whyGiven, "-mon", "chardev="+id+",mode=readline")
	}
	return change("chardev:"+id, whyGiven)
}

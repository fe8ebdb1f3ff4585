package cmdline

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	whyTerminal = "a terminal belongs to one process alone: qlive keeps the text and lets one attach to it"
	whyNoWait   = "QEMU would wait here for somebody to connect, and the guest with it"
	whyAppend   = "a second QEMU would empty the file, so each of them appends"
	whyControl  = "a terminal belongs to one process alone: for a monitor of one's own write -monitor unix:PATH,server=on,wait=off"
	whyDialOut  = "a second QEMU would connect there too, and its end would be taken for the VM's: qlive has the monitor"
)

// harmless are the backends that any number of processes can have.
func harmless() []string {
	return []string{"null", "vc", "ringbuf", "memory", "msmouse", "wctablet", "testdev", "spicevmc", "spiceport", "qemu-vdagent", "console", "mux", "hub"}
}

// console takes the place of the user's terminal: it notes a console for the character device id, which may be empty. The
// first of a name has that name, a further one a number behind it; those named console stand first.
func (r *rewriter) console(id, name string) Console {
	file := name
	if r.ports[name]++; r.ports[name] > 1 {
		file = fmt.Sprintf("%s%d", name, r.ports[name])
	}
	if id == "" {
		id = "qlive-" + file
	}
	c := Console{ID: id, Input: r.in(file + ".in"), Log: r.in(file + ".out")}
	if name == "console" {
		r.line.Consoles = slices.Insert(r.line.Consoles, r.ports[name]-1, c)
	} else {
		r.line.Consoles = append(r.line.Consoles, c)
	}
	return c
}

// chardev is the value of -chardev for the console. QEMU's pipe opens PATH.in and PATH.out for reading and writing: a FIFO, and here
// a plain file, which takes every byte at once. A socket loses the byte that is on its way when its client goes, from its
// log as well.
func (c Console) chardev() string {
	return "pipe,id=" + escape(c.ID) + ",path=" + escape(strings.TrimSuffix(c.Input, ".in"))
}

// isClient tells whether a socket backend dials out.
func isClient(p *props) bool {
	return p.str("backend") == "socket" && !p.on("server") && !p.has("fd")
}

// chardev rewrites a character device.
func (r *rewriter) chardev(o option) (edit, error) {
	p, err := read(o, "backend")
	if err != nil {
		return edit{}, err
	}
	id, kind := p.str("id"), p.str("backend")
	if strings.HasPrefix(id, "qlive-") {
		return edit{}, invalid(o, "ids that begin with qlive- are qlive's own", "choose another id")
	}
	switch {
	case slices.Contains(harmless(), kind):
		return r.keepLog(p, nil)
	case kind == "stdio" || kind == "pty":
		return r.terminal(p, id)
	case kind == "file":
		if p.on("append") {
			return r.keepLog(p, nil)
		}
		p.set("append", "on")
		return r.keepLog(p, []string{"append=on: " + whyAppend})
	case kind == "socket" && r.s.deadMonitors[id]:
		r.warn("%s is dropped: it is a monitor that dials out", o.words())
		return drop(whyDialOut)
	case kind == "socket":
		return r.socket(o, p)
	}
	return edit{}, refuse(o, "a character device of the type "+kind+" belongs to one process alone", "use socket,path=PATH,server=on,wait=off")
}

// keepLog lets the log of a character device grow instead of beginning anew, and ends its rule.
func (r *rewriter) keepLog(p *props, why []string) (edit, error) {
	if p.has("logfile") && !p.on("logappend") {
		p.set("logappend", "on")
		why = append(why, "logappend=on: "+whyAppend)
	}
	if len(why) == 0 {
		return keep()
	}
	return change(p.String(), strings.Join(why, "; "))
}

// terminal puts a console of qlive's in the place of stdio or a pty.
func (r *rewriter) terminal(p *props, id string) (edit, error) {
	if r.s.monitorOnly[id] {
		return change("null,id="+escape(id), whyControl)
	}
	value := r.console(id, "console").chardev()
	if p.on("mux") {
		value += ",mux=on"
	}
	if p.has("logfile") {
		r.warn("the log of the character device %s is qlive's: %s is not written", id, p.str("logfile"))
	}
	return change(value, whyTerminal)
}

// socket moves a listening unix socket into the generation's folder, hands a port on, and refuses every other socket.
func (r *rewriter) socket(o option, p *props) (edit, error) {
	if path := r.facts.Listeners[p.str("fd")]; path != "" {
		p.remove("fd")
		p.set("path", path)
	}
	switch {
	case !p.on("server"):
		return edit{}, refuse(o, "a second process would connect there too", "let QEMU listen: path=PATH,server=on,wait=off")
	case p.has("fd") && !r.place.Incoming:
		return edit{}, refuse(o, notThere, "use path=PATH,server=on,wait=off")
	case p.has("fd"), p.has("port"):
		if _, err := portOf(o, p, nil); err != nil {
			return edit{}, err
		}
		return r.port(p)
	case p.str("path") == "":
		return edit{}, invalid(o, "it has neither a path nor a port", "use path=PATH,server=on,wait=off")
	case p.on("abstract"):
		return edit{}, refuse(o, "a second process cannot listen on the same abstract socket", "leave abstract out")
	}
	private, err := r.name(o, NameSocket, p.str("path"))
	if err != nil {
		return edit{}, err
	}
	why := []string{whyPath}
	p.set("path", private)
	if noWait(p) {
		why = append(why, "wait=off: "+whyNoWait)
	}
	return r.keepLog(p, why)
}

// noWait turns waiting off and tells whether it was on.
func noWait(p *props) bool {
	if v, ok := p.get("wait"); ok && !isOn(v) {
		return false
	}
	p.set("wait", "off")
	return true
}

// mon drops a monitor whose character device is dropped.
func (r *rewriter) mon(o option) (edit, error) {
	p, err := read(o, "chardev")
	if err != nil {
		return edit{}, err
	}
	if r.s.deadMonitors[p.str("chardev")] {
		return drop(whyDialOut)
	}
	return keep()
}

// serial rewrites -serial, -parallel and -debugcon, which take a character device in QEMU's old notation.
func (r *rewriter) serial(o option) (edit, error) {
	dev, mon := strings.CutPrefix(o.value, "mon:")
	kind, rest, _ := strings.Cut(dev, ":")
	// -debugcon finds its character device by this id alone, even where it is given another.
	id, name := "", "console"
	switch o.name {
	case "debugcon":
		id, name = "debugcon", "debugcon"
	case "parallel":
		name = "parallel"
	}
	switch kind {
	case "stdio", "pty":
		c := r.console(id, name)
		r.add(whyTerminal, "-chardev", c.chardev())
		why := whyTerminal
		if mon {
			why += "; for a monitor of one's own write -monitor unix:PATH,server=on,wait=off"
		}
		return change("chardev:"+c.ID, why)
	case "file":
		if id == "" {
			id = "qlive-file" + strconv.Itoa(o.at)
		}
		r.add(whyAppend, "-chardev", "file,id="+id+",path="+escape(rest)+",append=on")
		return change("chardev:"+id, whyAppend)
	}
	return r.oldChardev(o, dev)
}

// oldChardev judges a character device in QEMU's old notation: unix:PATH,server=on, null, chardev:ID and so on.
func (r *rewriter) oldChardev(o option, dev string) (edit, error) {
	kind, rest, _ := strings.Cut(dev, ":")
	before := strings.TrimSuffix(o.value, dev)
	switch {
	case kind == "none" || kind == "chardev" || kind == "con" || slices.Contains(harmless(), kind):
		return keep()
	case kind == "unix":
		p, err := parseProps(rest, "path")
		if err != nil {
			return edit{}, invalid(o, err.Error(), "write unix:PATH,server=on,wait=off")
		}
		e, err := r.socket(o, p)
		if err != nil {
			return edit{}, err
		}
		e.value = before + "unix:" + p.String()
		return e, nil
	case slices.Contains(ports(), kind):
		if p := oldPort(dev); p != nil && p.on("server") {
			return r.oldPort(o, dev, p)
		}
		return edit{}, refuse(o, "a second process would connect there too", "let QEMU listen: "+kind+":HOST:PORT,server=on,wait=off")
	case kind == "udp":
		return edit{}, refuse(o, "a second process would use the same connection", "use unix:PATH,server=on,wait=off")
	}
	return edit{}, refuse(o, "the device belongs to one process alone", "use unix:PATH,server=on,wait=off")
}

// monitor rewrites -monitor and -qmp.
func (r *rewriter) monitor(o option) (edit, error) {
	kind, _, _ := strings.Cut(o.value, ":")
	switch kind {
	case "stdio", "pty":
		return drop(whyControl)
	case "chardev":
		if r.s.deadMonitors[strings.TrimPrefix(o.value, "chardev:")] {
			return drop(whyDialOut)
		}
	}
	return r.oldChardev(o, o.value)
}

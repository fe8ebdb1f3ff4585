package cmdline

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"qlive/vmstate"
)

// defaultRAM is what a PC has without -m.
const defaultRAM = 128 << 20

// What the reasons of memory changes say.
const (
	whyRAM  = "guest RAM lies in a file that qlive holds and each QEMU of this guest maps"
	whyPin  = "the machine type of the guest's first start: another QEMU means another one by this name"
	whyFill = "qlive allocates the RAM itself before QEMU starts"
)

func (r *rewriter) surveyMemory(o option) error {
	p, err := read(o, "size")
	if err != nil {
		return err
	}
	size, ok := p.get("size")
	if !ok {
		return nil
	}
	n, err := parseSize(size, 1<<20)
	if err != nil {
		return invalid(o, err.Error(), "write -m SIZE, such as -m 4G")
	}
	if n == 0 {
		return invalid(o, "a guest without RAM cannot be handed over", "write -m SIZE, such as -m 4G")
	}
	const align = 8192 // QEMU rounds up to this
	r.s.memory = (n + align - 1) / align * align
	return nil
}

func (r *rewriter) surveyObject(o option) error {
	p, err := read(o, "qom-type")
	if err != nil {
		return err
	}
	if !strings.HasPrefix(p.str("qom-type"), "memory-backend-") {
		return nil
	}
	id := p.str("id")
	if id == "" {
		return invalid(o, "it has no id", "give it an id")
	}
	if r.s.ramObjects[id] {
		return invalid(o, "another object has the id "+id, "give each its own id")
	}
	r.s.ramObjects[id] = true
	return nil
}

// plainRAM tells whether the guest's RAM is made by -m alone.
func (r *rewriter) plainRAM() bool {
	return r.s.machine["memory-backend"] == "" && !r.s.numaMemdev
}

// region adds a piece of RAM and gives the path by which QEMU opens it.
func (r *rewriter) region(g Region) string {
	g.FD = r.place.FirstFD + len(r.line.Regions)
	r.line.Regions = append(r.line.Regions, g)
	return g.path()
}

// path is where QEMU opens the region.
func (g Region) path() string { return "/proc/self/fd/" + strconv.Itoa(g.FD) }

// machine pins the type and, in the last -machine option, names the RAM.
func (r *rewriter) machine(o option) (edit, error) {
	for _, key := range []string{"memory-encryption", "confidential-guest-support"} {
		if v := r.s.machine[key]; v != "" {
			return edit{}, refuse(o, "the RAM of a confidential guest belongs to one process alone", "leave "+key+" out")
		}
	}
	p, err := read(o, "type")
	if err != nil {
		return edit{}, err
	}
	for _, q := range p.parts {
		if strings.HasPrefix(q.key, "memory.") {
			return edit{}, refuse(o, "qlive reads the size of RAM from -m", "write -m instead of "+q.key)
		}
		if strings.HasPrefix(q.key, "sgx-epc") {
			return edit{}, refuse(o, "the memory of SGX enclaves belongs to one process alone", "leave sgx-epc out")
		}
		if q.key == "dumpdtb" {
			return edit{}, refuse(o, "QEMU ends after it", "leave dumpdtb out")
		}
	}
	if id := p.str("memory-backend"); id != "" && !r.s.ramObjects[id] {
		return edit{}, invalid(o, "there is no memory backend "+id, "add -object memory-backend-ram,id="+id+",size=…, or leave memory-backend out")
	}
	var why []string
	if r.s.typeMachine >= 0 && o.at == r.opts[r.s.typeMachine].at && p.str("type") != r.facts.Machine.Name {
		p.set("type", r.facts.Machine.Name)
		why = append(why, whyPin)
	}
	if o.at == r.opts[r.s.lastMachine].at {
		if r.s.typeMachine < 0 {
			p.set("type", r.facts.Machine.Name)
			why = append(why, whyPin)
		}
		if r.plainRAM() {
			p.set("memory-backend", r.facts.Machine.RAMID)
			why = append(why, whyRAM)
		}
		for _, key := range r.s.without {
			p.set(key, "off")
			why = append(why, "for -no-"+key)
		}
	}
	return change(p.String(), strings.Join(why, "; "))
}

// checkMachine refuses machine types whose guests are not QEMU's alone.
func (r *rewriter) checkMachine() error {
	m := r.facts.Machine
	for _, prefix := range []string{"none", "xen", "x-remote", "nitro"} {
		if strings.HasPrefix(m.Name, prefix) {
			return vmstate.Errorf(vmstate.Unsupported, "cannot hand over a machine of the type %s", m.Name).With("use a pc-q35 or pc-i440fx machine")
		}
	}
	if m.Name == "" || m.RAMID == "" {
		return vmstate.Errorf(vmstate.Internal, "cannot write a command line: nothing is known of the machine type %q", m.Name)
	}
	return nil
}

// plainRegion asks for the RAM that -m makes: always the first region.
func (r *rewriter) plainRegion() error {
	if !r.plainRAM() {
		return nil
	}
	info := r.facts.Paths[r.s.memPath]
	if info.Exists && !info.Dir {
		return refuse(option{token: "-mem-path", value: r.s.memPath, hasVal: true}, "what the file holds would have to become guest RAM",
			"leave it out, name a folder, or remove the file if it is left over")
	}
	if info.PageBytes > 0 && r.s.memory%info.PageBytes != 0 {
		return invalid(option{token: "-m", value: strconv.FormatUint(r.s.memory, 10) + "b", hasVal: true},
			fmt.Sprintf("it is no multiple of the huge pages of %d bytes", info.PageBytes), "choose a size that is")
	}
	id := r.facts.Machine.RAMID
	r.region(Region{ID: id, Block: id, SizeBytes: r.s.memory, PageBytes: info.PageBytes, Huge: info.PageBytes > 0, Prealloc: r.s.prealloc})
	return nil
}

// completeMachine appends the RAM that -m makes, and the machine option if there is none.
func (r *rewriter) completeMachine() {
	id := r.facts.Machine.RAMID
	machine := r.facts.Machine.Name
	if r.plainRAM() {
		object := fmt.Sprintf("memory-backend-file,id=%s,size=%d,mem-path=%s,share=on", escape(id), r.s.memory, r.line.Regions[0].path())
		if align := r.alignment(r.line.Regions[0]); align > 0 {
			object += fmt.Sprintf(",align=%d", align)
		}
		if r.unreserved() {
			object += ",reserve=off"
		}
		if r.canonicalNames() {
			// The block of plain -m is named by its id in every machine type.
			object += ",x-use-canonical-path-for-ramblock-id=off"
		}
		r.add(whyRAM, "-object", object)
		machine += ",memory-backend=" + escape(id)
	}
	for _, key := range r.s.without {
		machine += "," + key + "=off"
	}
	if r.s.lastMachine < 0 {
		r.add(whyPin, "-machine", machine)
	}
}

var machineVersion = regexp.MustCompile(`-(\d+)\.\d+(?:[.+].*)?$`)

// canonicalNames tells whether the machine type is one of those, up to 3.1, where the blocks of memory-backend-file and
// -memfd are named /objects/ID.
func (r *rewriter) canonicalNames() bool {
	m := machineVersion.FindStringSubmatch(r.facts.Machine.Name)
	if m == nil {
		return false
	}
	major, err := strconv.Atoi(m[1])
	return err == nil && major < 4
}

// numa refuses nodes whose memory no backend holds.
func (r *rewriter) numa(o option) (edit, error) {
	p, err := read(o, "type")
	if err != nil {
		return edit{}, err
	}
	if p.str("type") != "node" {
		return keep()
	}
	switch memdev := p.str("memdev"); {
	case p.has("mem"):
		return edit{}, refuse(o, "memory given with mem= has no backend that two QEMUs can map",
			"write -object memory-backend-ram,id=ID,size="+p.str("mem")+" and -numa node,memdev=ID")
	case !r.s.numaMemdev:
		return edit{}, invalid(o, "none of the NUMA nodes has memory", "write -object memory-backend-ram,id=ID,size=… and -numa node,memdev=ID")
	case memdev != "" && !r.s.ramObjects[memdev]:
		return edit{}, invalid(o, "there is no memory backend "+memdev, "add -object memory-backend-ram,id="+memdev+",size=…")
	}
	return keep()
}

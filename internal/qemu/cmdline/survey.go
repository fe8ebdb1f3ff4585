package cmdline

import (
	"regexp"
	"slices"
	"strings"

	"qlive/vmstate"
)

// survey is what must be known of the whole line before any part of it can be judged.
type survey struct {
	machine      map[string]string // properties of all -machine options, the last one of each
	lastMachine  int               // index in opts, -1 if there is none
	typeMachine  int               // the option that names the machine type, -1 if none does
	without      []string          // parts of the machine that -no-hpet and -no-acpi take away
	memory       uint64            // size by -m
	memPath      string
	prealloc     bool            // -mem-prealloc
	ramObjects   map[string]bool // ids of memory backends on the line
	numaMemdev   bool
	nvdimm       map[string]bool // ids of backends that nvdimms use
	monitorOnly  map[string]bool // ids of character devices that only monitors use
	deadMonitors map[string]bool // ids of character devices that are dropped with their monitors

	nographic, defaultSerial, display, nodefaults bool
}

// survey reads the whole line once.
func (r *rewriter) survey() error {
	r.s = survey{
		machine: map[string]string{}, lastMachine: -1, typeMachine: -1, memory: defaultRAM, ramObjects: map[string]bool{},
		nvdimm: map[string]bool{}, monitorOnly: map[string]bool{}, deadMonitors: map[string]bool{}, defaultSerial: true,
	}
	for i, o := range r.opts {
		var err error
		switch o.name {
		case "machine":
			err = r.surveyMachine(i, o)
		case "m":
			err = r.surveyMemory(o)
		case "object":
			err = r.surveyObject(o)
		case "numa", "device":
			err = r.surveyDevice(o)
		case "no-hpet", "no-acpi":
			r.s.without = append(r.s.without, strings.TrimPrefix(o.name, "no-"))
		case "mem-path":
			r.s.memPath = o.value
		case "mem-prealloc":
			r.s.prealloc = true
		case "S":
			r.line.Paused = true
		case "nographic":
			r.s.nographic, r.s.display = true, true
		case "nodefaults":
			r.s.defaultSerial, r.s.nodefaults = false, true
		case "serial":
			r.s.defaultSerial = false
		case "display", "vnc", "spice":
			r.s.display = true
		}
		if err != nil {
			return err
		}
	}
	r.surveyChardevs()
	return nil
}

func (r *rewriter) surveyMachine(i int, o option) error {
	p, err := read(o, "type")
	if err != nil {
		return err
	}
	r.s.lastMachine = i
	for _, q := range p.parts {
		r.s.machine[q.key] = q.value
		if q.key == "type" {
			r.s.typeMachine = i
		}
	}
	return nil
}

// surveyDevice notes what devices and NUMA nodes take as memory, and devices that stand for a default one.
func (r *rewriter) surveyDevice(o option) error {
	implied := "driver"
	if o.name == "numa" {
		implied = "type"
	}
	p, err := read(o, implied)
	if err != nil {
		return err
	}
	switch {
	case o.name == "numa":
		r.s.numaMemdev = r.s.numaMemdev || p.str("memdev") != ""
	case p.str("driver") == "isa-serial":
		r.s.defaultSerial = false
	case p.str("driver") == "nvdimm":
		r.s.nvdimm[p.str("memdev")] = true
	}
	return nil
}

// surveyChardevs finds the character devices that only monitors use.
func (r *rewriter) surveyChardevs() {
	monitors, others := map[string]bool{}, map[string]bool{}
	for _, o := range r.opts {
		switch o.name {
		case "mon":
			if p, err := read(o, "chardev"); err == nil {
				monitors[p.str("chardev")] = true
			}
		case "object":
			// Since 11.1 a monitor can be an object.
			if p, err := read(o, "qom-type"); err == nil && p.str("chardev") != "" {
				if strings.HasPrefix(p.str("qom-type"), "monitor-") {
					monitors[p.str("chardev")] = true
				} else {
					others[p.str("chardev")] = true
				}
			}
		case "chardev", "append":
		case "monitor", "qmp", "qmp-pretty":
			if id, ok := strings.CutPrefix(o.value, "chardev:"); ok {
				monitors[id] = true
			}
		default:
			if id, ok := strings.CutPrefix(o.value, "chardev:"); ok {
				others[id] = true
			} else if p, err := parseProps(o.value, ""); err == nil && o.hasVal {
				others[p.str("chardev")] = true
			}
		}
	}
	for id := range monitors {
		r.s.monitorOnly[id] = !others[id]
	}
	for _, o := range r.opts {
		if o.name != "chardev" {
			continue
		}
		if p, err := read(o, "backend"); err == nil && r.s.monitorOnly[p.str("id")] && isClient(p) {
			r.s.deadMonitors[p.str("id")] = true
		}
	}
}

// read parses an option's properties.
func read(o option, implied string) (*props, error) {
	p, err := parseProps(o.value, implied)
	if err != nil {
		return nil, invalid(o, err.Error(), "write it as JSON with double quotes, or as key=value,…")
	}
	return p, nil
}

// ownVersion is what Proxmox adds to a machine type for its own QEMU: a version of its own changes, of which the guest sees nothing.
var ownVersion = regexp.MustCompile(`\+pve\d+$`)

// ResolveMachine finds the machine type that args ask for among those of a binary: by its name, by an alias such as
// q35, or the default. The versioned type that it finds is the guest's for life.
func ResolveMachine(args []string, machines []Machine) (Machine, error) {
	opts, err := parse(args)
	if err != nil {
		return Machine{}, err
	}
	r := &rewriter{opts: opts, line: &Line{}}
	if err := r.survey(); err != nil {
		return Machine{}, err
	}
	want, ok := r.s.machine["type"]
	want = ownVersion.ReplaceAllString(want, "")
	i := slices.IndexFunc(machines, func(m Machine) bool {
		if !ok {
			return m.Default
		}
		return m.Name == want || m.Alias != "" && m.Alias == want
	})
	switch {
	case i >= 0:
		return machines[i], nil
	case !ok:
		return Machine{}, vmstate.Errorf(vmstate.Invalid, "cannot tell which machine the guest shall have: this QEMU has no default").With("name one with -machine")
	default:
		return Machine{}, vmstate.Errorf(vmstate.Unsupported, "cannot make a machine %q: this QEMU does not have that type", want).
			With("choose one that it lists under -machine help")
	}
}

// Paths are the paths in args that Rewrite wants to know about, each once.
func Paths(args []string) []string {
	opts, err := parse(args)
	if err != nil {
		return nil
	}
	var paths []string
	if k := kernelOf(opts); k != "" {
		paths = append(paths, k)
	}
	for _, o := range opts {
		p := ""
		switch o.name {
		case "mem-path":
			p = o.value
		case "object":
			if q, err := read(o, "qom-type"); err == nil && strings.HasPrefix(q.str("qom-type"), "memory-backend-") {
				p = q.str("mem-path")
			}
		}
		if p != "" && !slices.Contains(paths, p) {
			paths = append(paths, p)
		}
	}
	return paths
}

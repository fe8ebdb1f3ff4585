package cmdline

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"qlive/vmstate"
)

// Rewrite gives the line that qlive runs for args (what follows the binary's name) in one generation of the guest.
// It never touches the host. Its errors are [vmstate.Error]s, Invalid or Unsupported, that name every argument that is in
// the way and what to do about each.
func Rewrite(args []string, facts Facts, place Placement) (*Line, error) {
	if !path.IsAbs(place.Dir) || strings.ContainsRune(place.Dir, 0) {
		return nil, vmstate.Errorf(vmstate.Internal, "cannot place a QEMU in %q: the folder's path is not absolute", place.Dir)
	}
	for _, a := range args {
		if strings.ContainsRune(a, 0) {
			return nil, vmstate.Errorf(vmstate.Invalid, "cannot use %q: an argument cannot hold a zero byte", a).With("leave the byte out")
		}
	}
	opts, err := parse(args)
	if err == nil {
		opts, err = inline(opts, facts.Configs)
	}
	if err != nil {
		return nil, err
	}
	if place.FirstFD == 0 {
		place.FirstFD = 3
	}
	r := &rewriter{facts: facts, place: place, opts: opts, line: &Line{}, taken: map[string]bool{}, ports: map[string]int{}}
	if err := r.checkMachine(); err != nil {
		return nil, err
	}
	if err := r.survey(); err != nil {
		return nil, err
	}
	if place.ProcessName != "" { // first, so that the user's own word for it wins
		r.add("else ps and top would show the descriptor's number that QEMU is run by", "-name", "process="+escape(place.ProcessName))
	}
	rules := rules()
	var errs []error
	if err := r.plainRegion(); err != nil {
		errs = append(errs, err)
	}
	for _, o := range opts {
		if err := r.apply(rules, o); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, join(errs)
	}
	if err := r.complete(); err != nil {
		return nil, err
	}
	return r.line, nil
}

// rewriter is one call of Rewrite.
type rewriter struct {
	facts Facts
	place Placement
	opts  []option
	line  *Line
	s     survey
	taken map[string]bool // public names that have been given away
	ports map[string]int  // consoles so far, by name
	// handed is how many descriptors the QEMU gets beside those of its RAM so far, vncs how many VNC displays have a port.
	handed, vncs int
}

// rule writes one option into the line, or says why it cannot be there. A rule that writes nothing keeps the option.
type rule func(r *rewriter, o option) (edit, error)

// edit is what a rule does to an option.
type edit struct {
	change bool   // the value becomes value
	value  string //
	drop   bool   // the option goes
	why    string
}

func keep() (edit, error)                    { return edit{}, nil }
func drop(why string) (edit, error)          { return edit{drop: true, why: why}, nil }
func change(value, why string) (edit, error) { return edit{change: true, value: value, why: why}, nil }
func (r *rewriter) warn(f string, arg ...any) {
	r.line.Warnings = append(r.line.Warnings, fmt.Sprintf(f, arg...))
}

// apply puts option o into the line as its rule says.
func (r *rewriter) apply(rules map[string]rule, o option) error {
	if err := r.common(o); err != nil {
		return err
	}
	var e edit
	if fn := rules[o.name]; fn != nil && o.known {
		var err error
		if e, err = fn(r, o); err != nil {
			return err
		}
	} else if !o.known {
		r.warn("%s is an option that qlive does not know: passed on as it is", o.token)
	}
	if e.change && o.value == "" {
		return invalid(o, "its value is empty", "leave it out, or give it a value")
	}
	why := ""
	if o.from != "" {
		why = "from " + o.from
		if e.why != "" {
			e.why = why + ": " + e.why
		}
	}
	switch {
	case e.drop:
		r.put(vmstate.Arg{Was: o.token, Why: e.why, Dropped: true})
		if o.hasVal {
			r.put(vmstate.Arg{Was: o.value, Why: e.why, Dropped: true})
		}
	case e.change && e.value != o.value:
		r.put(vmstate.Arg{Value: o.token, Why: why}, vmstate.Arg{Value: e.value, Was: o.value, Why: e.why})
	default:
		r.put(vmstate.Arg{Value: o.token, Why: why})
		if o.hasVal {
			r.put(vmstate.Arg{Value: o.value, Why: why})
		}
	}
	return nil
}

func (r *rewriter) put(args ...vmstate.Arg) { r.line.Args = append(r.line.Args, args...) }

// add appends an option of qlive's own.
func (r *rewriter) add(why string, words ...string) {
	for _, w := range words {
		r.put(vmstate.Arg{Value: w, Why: why})
	}
}

// in is the path of a file in the generation's folder.
func (r *rewriter) in(name string) string { return path.Join(r.place.Dir, name) }

// own is the path of a file that QEMU makes.
func (r *rewriter) own(name string) string { return path.Join(r.place.Dir, "own", name) }

// complete appends what qlive adds to every line.
func (r *rewriter) complete() error {
	r.completeMachine()
	r.addBootKernel()
	if r.s.defaultSerial {
		why := "QEMU's default serial port: qlive keeps its text and lets one attach to it"
		if r.s.nographic {
			why = "the terminal of -nographic: qlive keeps its text and lets one attach to it"
		}
		c := r.console("", "console")
		r.add(why, "-chardev", c.chardev(), "-serial", "chardev:"+c.ID)
	}
	if !r.s.display {
		r.add("without a display option QEMU opens a window or listens on a port for VNC, and a second process cannot", "-display", "none")
	}
	r.line.Monitor = r.own("qmp.sock")
	r.add("qlive's own monitor", "-chardev", monitorAt+escape(r.line.Monitor)+",server=on,wait=off",
		"-mon", "chardev="+monitorID+",mode=control")
	if !r.line.Paused {
		r.add("qlive checks the guest before its first instruction, then lets it go", "-S")
	}
	if r.place.Incoming {
		r.add("the guest is handed over from the QEMU that has it", "-incoming", "defer")
	}
	if r.place.Given {
		r.line.Offer = OfferBelow(r.place.Dir)
		at, err := json.Marshal(r.line.Offer)
		if err != nil {
			return err
		}
		r.add("and the descriptors of its memory from there", "-incoming",
			`{"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":`+string(at)+`}}`)
	}
	return r.checkPaths()
}

// OfferBelow is the path at which a QEMU with its generation in this folder waits for the descriptors of its memory, if it does.
func OfferBelow(dir string) string { return path.Join(dir, "own", "cpr.sock") }

// maxSocketPath is what fits into a unix socket's address.
const maxSocketPath = 107

// How qlive's own monitor stands in a command line.
const (
	monitorID = "qlive-qmp"
	monitorAt = "socket,id=" + monitorID + ",path="
)

// MonitorBelow tells whether an argument of a QEMU makes qlive's own monitor somewhere below a folder.
func MonitorBelow(dir, arg string) bool { return strings.HasPrefix(arg, monitorAt+escape(dir)+"/") }

func (r *rewriter) checkPaths() error {
	paths := []string{r.line.Monitor, r.line.Offer}
	for _, n := range r.line.Names {
		if n.Kind == NameSocket {
			paths = append(paths, n.Path)
		}
	}
	for _, p := range paths {
		if len(p) > maxSocketPath {
			return vmstate.Errorf(vmstate.Invalid, "cannot use the socket path %s: it has %d bytes, and %d are possible", p, len(p), maxSocketPath).
				With("use a shorter run directory")
		}
	}
	return nil
}

// name moves something that the user named public into the generation's folder and gives its path there.
func (r *rewriter) name(o option, kind NameKind, public string) (string, error) {
	if public == "" {
		return "", invalid(o, "its path is empty", "name a path")
	}
	if r.taken[path.Clean(public)] {
		return "", invalid(o, "another option has the path "+public, "give each its own path")
	}
	r.taken[path.Clean(public)] = true
	private := r.own(fmt.Sprintf("u%d-%s", len(r.line.Names), shortName(public)))
	r.line.Names = append(r.line.Names, Name{Kind: kind, Public: public, Path: private})
	return private, nil
}

const whyPath = "QEMU unlinks this path as it ends, though its successor may own it by then: each generation has its own, and qlive keeps a link to the present one"

// shortName is the end of p's last element, harmless and short.
func shortName(p string) string {
	const most = 24
	clean := strings.Map(func(c rune) rune {
		if c < 0x80 && (c == '.' || c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z') {
			return c
		}
		return '_'
	}, path.Base(p))
	if len(clean) > most {
		clean = clean[len(clean)-most:]
	}
	return clean
}

// join makes one error of several, so that a person can put everything right at once.
func join(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	all := &vmstate.Error{Kind: vmstate.KindOf(errs[0]), Err: errors.Join(errs...)}
	var details, remedies []string
	for _, err := range errs {
		e, ok := errors.AsType[*vmstate.Error](err)
		if !ok {
			return err
		}
		if !slices.Contains(details, e.Detail) {
			details = append(details, e.Detail)
		}
		if !slices.Contains(remedies, e.Remedy) {
			remedies = append(remedies, e.Remedy)
		}
	}
	all.Detail = strings.Join(details, "; ")
	all.Remedy = strings.Join(remedies, "; ")
	return all
}

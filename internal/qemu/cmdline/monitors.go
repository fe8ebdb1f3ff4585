package cmdline

import "strings"

// Monitors are the unix sockets on which a QEMU with the arguments args serves QMP, as the line writes their paths, and how many monitors
// it has besides that nobody else can connect to, or that do not speak QMP.
func Monitors(args []string) (paths []string, others int) {
	opts, err := parse(args)
	if err != nil {
		return nil, 0
	}
	listens := map[string]string{} // path of the socket, by the character device
	for _, o := range opts {
		if o.name != "chardev" {
			continue
		}
		if p, err := read(o, "backend"); err == nil && p.str("backend") == "socket" {
			if path := listenPath(p); path != "" {
				listens[p.str("id")] = path
			}
		}
	}
	add := func(control bool, path string) {
		if control && path != "" {
			paths = append(paths, path)
		} else {
			others++
		}
	}
	for _, o := range opts {
		switch o.name {
		case "qmp", "qmp-pretty", "monitor":
			if o.value != "none" {
				add(o.name != "monitor", oldMonitor(o.value, listens))
			}
		case "mon":
			if p, err := read(o, "chardev"); err == nil {
				add(p.str("mode") == "control", listens[p.str("chardev")])
			}
		case "object": // since 11.1
			if p, err := read(o, "qom-type"); err == nil && strings.HasPrefix(p.str("qom-type"), "monitor-") {
				add(p.str("qom-type") == "monitor-qmp", listens[p.str("chardev")])
			}
		}
	}
	return paths, others
}

// oldMonitor is the path of a monitor in QEMU's old notation, empty if it has none.
func oldMonitor(value string, listens map[string]string) string {
	kind, rest, _ := strings.Cut(value, ":")
	switch kind {
	case "chardev":
		return listens[rest]
	case "unix":
		if p, err := parseProps(rest, "path"); err == nil {
			return listenPath(p)
		}
	}
	return ""
}

// listenPath is where a socket listens that is neither abstract nor somebody else's descriptor.
func listenPath(p *props) string {
	if !p.on("server") || p.on("abstract") {
		return ""
	}
	return p.str("path")
}

// Command takes apart what a process was run as: the QEMU and its arguments. Where a QEMU is run by the dynamic loader, as one is that
// brings its own libraries, the loader and what is meant for it go. The binary is empty if there is none.
func Command(argv []string) (binary string, args []string) {
	if len(argv) == 0 {
		return "", nil
	}
	if !isLoader(argv[0]) {
		return argv[0], argv[1:]
	}
	rest := argv[1:]
	for len(rest) > 0 && strings.HasPrefix(rest[0], "--") {
		switch rest[0] {
		case "--library-path", "--inhibit-rpath", "--audit", "--preload", "--argv0", "--glibc-hwcaps-prepend", "--glibc-hwcaps-mask":
			rest = rest[min(2, len(rest)):]
		default:
			rest = rest[1:]
		}
	}
	if len(rest) == 0 {
		return "", nil
	}
	return rest[0], rest[1:]
}

// isLoader tells whether a program is the dynamic loader, by its name in glibc and musl.
func isLoader(path string) bool {
	name := path[strings.LastIndexByte(path, '/')+1:]
	return strings.HasPrefix(name, "ld-linux") || strings.HasPrefix(name, "ld-musl") || name == "ld.so"
}

// Devices are the ids that args give to devices: what a QEMU has beside them was plugged in later.
func Devices(args []string) map[string]bool {
	ids := map[string]bool{}
	opts, err := parse(args)
	if err != nil {
		return ids
	}
	for _, o := range opts {
		if o.name != "device" {
			continue
		}
		if p, err := read(o, "driver"); err == nil && p.str("id") != "" {
			ids[p.str("id")] = true
		}
	}
	return ids
}

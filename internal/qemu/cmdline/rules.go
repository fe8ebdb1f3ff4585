package cmdline

import (
	"slices"
	"strings"
)

// rules is the table of what is done to which option. What it does not name is passed on as it is.
func rules() map[string]rule {
	m := map[string]rule{
		"machine": (*rewriter).machine, "numa": (*rewriter).numa, "object": (*rewriter).object, "device": (*rewriter).device,
		"mem-path":     gone(whyRAM),
		"mem-prealloc": gone(whyFill),

		"chardev": (*rewriter).chardev, "mon": (*rewriter).mon,
		"serial": (*rewriter).serial, "parallel": (*rewriter).serial, "debugcon": (*rewriter).serial,
		"monitor": (*rewriter).monitor, "qmp": (*rewriter).monitor, "qmp-pretty": (*rewriter).monitor,

		"netdev": (*rewriter).netdev, "nic": (*rewriter).netdev, "net": (*rewriter).netdev,
		"display": (*rewriter).display, "vnc": (*rewriter).vnc, "spice": (*rewriter).spice,
		"add-fd": (*rewriter).addFD,
		"drive":  (*rewriter).drive, "blockdev": (*rewriter).blockdev,

		"daemonize": gone("qlive itself lets QEMU run in the background, and must know its process"),
		"pidfile":   (*rewriter).pidfile, "D": (*rewriter).logfile, "trace": (*rewriter).trace, "run-with": (*rewriter).runWith,
		"async-teardown": gone(whyTeardown), "runas": (*rewriter).runas,
		"no-hpet":    gone("later QEMUs do not have this option: -machine hpet=off says the same"),
		"no-acpi":    gone("later QEMUs do not have this option: -machine acpi=off says the same"),
		"readconfig": (*rewriter).readconfig, "id": gone("the number of the VM, which Proxmox tells its own QEMU: no other QEMU has this option"),
		"loadvm": (*rewriter).loadvm, "cpu": (*rewriter).cpu, "global": (*rewriter).global, "icount": (*rewriter).icount,
		"audiodev": (*rewriter).audio, "audio": (*rewriter).audio,
	}
	for name, why := range refusals() {
		m[name] = func(_ *rewriter, o option) (edit, error) { return edit{}, refuse(o, why[0], why[1]) }
	}
	return m
}

// gone is the rule of an option that is always dropped.
func gone(why string) rule {
	return func(*rewriter, option) (edit, error) { return drop(why) }
}

const whyLog = "a second QEMU would empty the file: each generation has its own, and qlive keeps a link to the present one"

const whyTeardown = "it forks a process that holds the RAM after QEMU has ended"

// refusals are the options that are refused whatever their value: why, and what to do.
func refusals() map[string][2]string {
	ends := [2]string{"QEMU prints something and ends", "leave it out"}
	xen := [2]string{"a guest of Xen is not QEMU's alone", "leave it out"}
	noTPM := [2]string{"the state of a TPM cannot be handed over yet", "start the guest without a TPM"}
	share := [2]string{"QEMU cannot hand over a shared folder (9p)", "share it by the guest's network, or as a disk image"}
	return map[string][2]string{
		"set":          {"it changes another option behind its back", "write the value in that option"},
		"incoming":     {"qlive itself gives a QEMU its guest", "leave it out"},
		"gdb":          {"a second process cannot listen there", "leave it out; the monitor's command gdbserver starts it while it is needed"},
		"s":            {"a second process cannot listen on port 1234", "leave it out; the monitor's command gdbserver starts it while it is needed"},
		"snapshot":     {"what the guest writes would be in a temporary file of one process", "make an overlay with qemu-img create -b and use that"},
		"tpmdev":       noTPM,
		"fsdev":        share,
		"virtfs":       share,
		"chroot":       {"the paths of qlive are not there", "leave it out; a container or a mount namespace around qlive does more"},
		"plugin":       {"a guest with TCG plugins cannot be handed over", "leave it out"},
		"preconfig":    {"qlive starts the machine itself", "write the configuration on the command line"},
		"qtest":        {"it is for QEMU's own tests", "leave it out"},
		"qtest-log":    {"it is for QEMU's own tests", "leave it out"},
		"dump-vmstate": ends, "h": ends, "help": ends, "version": ends, "audio-help": ends,
		"xen-domid": xen, "xen-attach": xen, "xen-domid-restrict": xen,
	}
}

// common refuses what no option may say.
func (r *rewriter) common(o option) error {
	if !o.hasVal || !o.known {
		return nil
	}
	if asksHelp(o) {
		return refuse(o, "QEMU prints help and ends", "leave it out")
	}
	if slices.Contains([]string{"append", "name", "smbios", "fw_cfg"}, o.name) {
		return nil // free text
	}
	for _, p := range []string{"/dev/fdset/", "/dev/fd/", "/proc/self/fd/"} {
		switch {
		case !strings.Contains(o.value, p):
		case p != "/dev/fdset/" || !r.place.Incoming:
			return refuse(o, notThere, "name the file by its path")
		case o.name != "chardev":
			return refuse(o, "QEMU opens an image once more as it lets go of it, and may not be able to by that name", "name the file by its path")
		}
	}
	return nil
}

// asksHelp tells whether the option makes QEMU print a list and end.
func asksHelp(o option) bool {
	if !slices.Contains([]string{"machine", "cpu", "device", "accel", "object", "netdev", "nic", "net", "chardev", "d", "trace", "vga",
		"audiodev", "audio", "display", "smp", "drive", "global", "watchdog-action", "tpmdev", "sandbox"}, o.name) {
		return false
	}
	for _, h := range []string{"help", "?"} {
		if o.value == h || strings.HasSuffix(o.value, ","+h) || strings.HasPrefix(o.value, h+",") {
			return true
		}
	}
	return false
}

// pidfile moves the file into the generation's folder.
func (r *rewriter) pidfile(o option) (edit, error) {
	p, err := r.name(o, NamePidfile, o.value)
	if err != nil {
		return edit{}, err
	}
	return change(p, "QEMU locks its pidfile and unlinks it as it ends: each generation has its own, and qlive keeps a link to the present one")
}

// logfile moves QEMU's own log into the generation's folder, unless its name holds the pid anyhow.
func (r *rewriter) logfile(o option) (edit, error) {
	if strings.Contains(o.value, "%d") {
		return keep()
	}
	p, err := r.name(o, NameLog, o.value)
	if err != nil {
		return edit{}, err
	}
	return change(p, whyLog)
}

func (r *rewriter) trace(o option) (edit, error) {
	p, err := read(o, "enable")
	if err != nil {
		return edit{}, err
	}
	file := p.str("file")
	if file == "" {
		return keep()
	}
	private, err := r.name(o, NameLog, file)
	if err != nil {
		return edit{}, err
	}
	p.set("file", private)
	return change(p.String(), whyLog)
}

// runWith takes away what ties QEMU's life to another process, and says the rest as the version of this QEMU knows it.
func (r *rewriter) runWith(o option) (edit, error) {
	p, err := read(o, "")
	if err != nil {
		return edit{}, err
	}
	if p.str("chroot") != "" {
		why := refusals()["chroot"]
		return edit{}, refuse(o, why[0], why[1])
	}
	var why []string
	if p.remove("async-teardown") {
		why = append(why, whyTeardown)
	}
	if p.remove("exit-with-parent") {
		why = append(why, "the guest outlives the daemon that starts it")
	}
	if user := p.str("user"); user != "" && !r.place.Version.AtLeast(9, 1) {
		p.remove("user")
		why = append(why, "QEMU before 9.1 does not have this option: -runas says the same")
		r.add("for -run-with user=", "-runas", user)
	}
	if len(p.parts) == 0 {
		return drop(strings.Join(why, "; "))
	}
	return change(p.String(), strings.Join(why, "; "))
}

// runas says it as the version of this QEMU knows it.
func (r *rewriter) runas(o option) (edit, error) {
	if !r.place.Version.AtLeast(9, 1) {
		return keep()
	}
	r.add("for -runas", "-run-with", "user="+escape(o.value))
	return drop("later QEMUs do not have this option: -run-with user= says the same")
}

func (r *rewriter) loadvm(option) (edit, error) {
	if !r.place.Incoming {
		return keep()
	}
	return drop("the guest's state comes from the QEMU that has it, not from the snapshot it was first started from")
}

func (r *rewriter) cpu(o option) (edit, error) {
	model, _, _ := strings.Cut(o.value, ",")
	if model == "host" || model == "max" {
		r.warn("-cpu %s is what the host and the QEMU of the moment offer: another QEMU may offer another CPU under that name, and a named model does not change", model)
	}
	return keep()
}

func (r *rewriter) global(o option) (edit, error) {
	p, err := read(o, "")
	if err != nil {
		return edit{}, err
	}
	driver := p.str("driver")
	if driver == "" && len(p.parts) > 0 {
		driver, _, _ = strings.Cut(p.parts[0].key, ".")
	}
	switch {
	case driver == "migration":
		return edit{}, refuse(o, "the migration's settings are qlive's", "leave it out")
	case strings.HasPrefix(driver, "memory-backend"):
		return edit{}, refuse(o, "it would change the RAM that qlive makes", "write the property in the object itself")
	}
	return keep()
}

func (r *rewriter) icount(o option) (edit, error) {
	if p, err := read(o, "shift"); err != nil || p.has("rr") {
		return edit{}, refuse(o, "a guest that is recorded or replayed cannot be handed over", "leave rr out")
	}
	return keep()
}

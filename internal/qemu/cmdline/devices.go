package cmdline

import (
	"slices"
	"strings"

	"qlive/vmstate"
)

// object rewrites memory backends and refuses what one process has alone.
func (r *rewriter) object(o option) (edit, error) {
	p, err := read(o, "qom-type")
	if err != nil {
		return edit{}, err
	}
	kind := p.str("qom-type")
	if strings.HasPrefix(kind, "memory-backend-") {
		return r.backend(o, p)
	}
	if kind == "secret" && p.str("id") == masterKey && !r.used(masterKey, o) {
		return drop(whyMasterKey)
	}
	if strings.HasPrefix(kind, "monitor-") && r.s.deadMonitors[p.str("chardev")] {
		return drop(whyDialOut)
	}
	for _, row := range []struct{ prefix, why, remedy string }{
		{"sev", "the RAM of a confidential guest belongs to one process alone", "leave it out"},
		{"tdx-guest", "the RAM of a confidential guest belongs to one process alone", "leave it out"},
		{"input-linux", "the input device belongs to one process alone", "use -device usb-tablet and a display by VNC"},
		{"input-barrier", "a second process would connect there too", "leave it out"},
		{"filter-dump", "a second QEMU would empty the file", "capture on the host instead"},
		{"filter-mirror", "network filters cannot be handed over yet", "leave it out"},
		{"filter-redirector", "network filters cannot be handed over yet", "leave it out"},
		{"colo-compare", "network filters cannot be handed over yet", "leave it out"},
		{"iommufd", "a device of the host belongs to one process alone", "leave it out; use virtio devices"},
		{"x-remote-object", "a device in another process cannot be handed over", "leave it out"},
		{"x-vfio-user-server", "a device in another process cannot be handed over", "leave it out"},
		{"cryptodev-vhost-user", "vhost-user backends cannot be handed over yet", "use cryptodev-backend-builtin"},
		{"dbus-vmstate", "a second process would save the same peers", "leave it out"},
	} {
		if strings.HasPrefix(kind, row.prefix) {
			return edit{}, refuse(o, row.why, row.remedy)
		}
	}
	return keep()
}

// masterKey is what libvirt calls the secret that it gives to every QEMU for others to be encrypted with.
const masterKey = "masterKey0"

const whyMasterKey = "libvirt's master key: nothing on the line uses it, and its file is there only while libvirt runs the guest"

// used tells whether another option than o speaks of the id.
func (r *rewriter) used(id string, o option) bool {
	return slices.ContainsFunc(r.opts, func(q option) bool { return q.at != o.at && strings.Contains(q.value, id) })
}

// device refuses devices whose backend one process has alone, and pins what QEMU would choose by itself.
func (r *rewriter) device(o option) (edit, error) {
	p, err := read(o, "driver")
	if err != nil {
		return edit{}, err
	}
	driver := p.str("driver")
	for _, row := range deviceRefusals() {
		if strings.HasPrefix(driver, row[0]) {
			return edit{}, refuse(o, row[1], row[2])
		}
	}
	switch {
	case driver == "vmgenid" && strings.EqualFold(p.str("guid"), "auto"):
		if r.facts.GUID == "" {
			return edit{}, vmstate.Errorf(vmstate.Internal, "cannot use %s: no GUID has been fixed", o.words())
		}
		p.set("guid", r.facts.GUID)
		return change(p.String(), "a new GUID with each QEMU would tell the guest that it was copied: this one is kept for its life")
	case strings.HasPrefix(driver, "virtio-mem") && !r.place.Version.AtLeast(8, 1):
		if r.place.Incoming {
			return edit{}, vmstate.Errorf(vmstate.Incompatible,
				"cannot use %s: QEMU %s discards the memory of virtio-mem as it starts, the running guest's too", o.words(), r.place.Version).
				With("choose QEMU 8.1 or later")
		}
		r.warn("%s: the guest can be handed over to QEMU 8.1 or later alone", o.words())
	case driver == "loader" && p.has("data"):
		return edit{}, refuse(o, "it writes into RAM whenever a QEMU starts, the running guest's too", "put the data into a file and write file=")
	}
	for _, key := range []string{"fd", "vhostfd"} {
		if p.has(key) {
			return edit{}, refuse(o, notThere, "leave "+key+" out")
		}
	}
	return keep()
}

// deviceRefusals: the beginning of a driver's name, why, and what to do.
func deviceRefusals() [][3]string {
	const host = "a device of the host belongs to one process alone"
	const vhost = "vhost backends cannot be handed over yet"
	return [][3]string{
		{"vfio-", host, "use virtio devices"},
		{"usb-host", host, "leave it out; share what is on it by the guest's network or as a disk"},
		{"u2f-passthru", host, "leave it out"},
		{"virtio-input-host", host, "use virtio-tablet and virtio-keyboard"},
		{"vhost-user-", vhost, "use the virtio device that QEMU itself serves"},
		{"vhost-vsock", vhost, "leave it out; use a virtio-serial port"},
		{"vhost-scsi", vhost, "use virtio-scsi"},
		{"vhost-vdpa", vhost, "use the virtio device that QEMU itself serves"},
		{"vdpa", vhost, "use the virtio device that QEMU itself serves"},
		{"virtio-pmem", "persistent memory cannot be handed over yet", "give the guest the file as a disk"},
		{"ivshmem", "memory shared with other programs cannot be handed over", "leave it out"},
		{"x-pci-proxy", "a device in another process cannot be handed over", "leave it out"},
		{"virtio-9p", "QEMU cannot hand over a shared folder (9p)", "share it by the guest's network, or as a disk image"},
		{"tpm-", "the state of a TPM cannot be handed over yet", "start the guest without a TPM"},
	}
}

// netdev lets pass what another QEMU can open beside the first one without the guest noticing.
func (r *rewriter) netdev(o option) (edit, error) {
	p, err := read(o, "type")
	if err != nil {
		return edit{}, err
	}
	kind := p.str("type")
	if kind == "" && o.name == "nic" {
		kind = "user" // as QEMU has it
	}
	switch kind {
	case "":
		return edit{}, invalid(o, "it names no type", "begin it with a type, such as user")
	case "none", "nic", "hubport":
		return keep()
	case "user":
		return r.user(o, p)
	case "tap", "bridge":
		return r.tap(o, p)
	default:
		return edit{}, refuse(o, "a network backend of the type "+kind+" cannot be handed over yet", "use the type user, or a tap")
	}
}

// drive refuses a disk whose writes would be lost with their process.
func (r *rewriter) drive(o option) (edit, error) {
	p, err := read(o, "")
	if err != nil {
		return edit{}, err
	}
	if p.on("snapshot") {
		why := refusals()["snapshot"]
		return edit{}, refuse(o, why[0], why[1])
	}
	return r.blockdev(o)
}

func (r *rewriter) blockdev(o option) (edit, error) {
	p, err := read(o, "driver")
	if err != nil {
		return edit{}, err
	}
	driver := p.str("driver")
	if driver == "" {
		driver = p.str("file.driver")
	}
	if slices.Contains([]string{"nvme", "virtio-blk-vfio-pci", "virtio-blk-vhost-user", "virtio-blk-vhost-vdpa", "nvme-io_uring"}, driver) {
		return edit{}, refuse(o, "a device of the host belongs to one process alone", "use the host's own block device")
	}
	for _, key := range []string{"locking", "file.locking"} {
		if v, ok := p.get(key); ok && strings.EqualFold(v, "off") {
			r.warn("%s: nothing but qlive keeps two QEMUs from writing to this disk", o.words())
		}
	}
	return keep()
}

// display keeps what needs no window.
func (r *rewriter) display(o option) (edit, error) {
	if rest, ok := strings.CutPrefix(o.value, "vnc="); ok {
		e, err := r.listenVNC(o, rest)
		e.value = "vnc=" + e.value // of no account where it is kept
		return e, err
	}
	p, err := read(o, "type")
	if err != nil {
		return edit{}, err
	}
	switch kind := p.str("type"); kind {
	case "none", "egl-headless":
		return keep()
	default:
		return edit{}, refuse(o, "a window belongs to one process alone", "use -display none, or -vnc unix:PATH and a viewer")
	}
}

// vnc moves a unix socket into the generation's folder, and lets a port be opened later.
func (r *rewriter) vnc(o option) (edit, error) { return r.listenVNC(o, o.value) }

// listenVNC rewrites value, which stands somewhere in option o.
func (r *rewriter) listenVNC(o option, value string) (edit, error) {
	p, err := parseProps(value, "vnc")
	if err != nil {
		return edit{}, invalid(o, err.Error(), "use -vnc unix:PATH")
	}
	where := p.str("vnc")
	if p.has("websocket") {
		return edit{}, refuse(o, "a second process cannot listen on the same port", "leave websocket out")
	}
	if p.on("reverse") {
		return edit{}, refuse(o, "a second process would connect there too", "leave reverse out")
	}
	if where == "none" {
		return keep()
	}
	public, ok := strings.CutPrefix(where, "unix:")
	if !ok {
		return r.vncPort(o, p)
	}
	private, err := r.name(o, NameSocket, public)
	if err != nil {
		return edit{}, err
	}
	p.set("vnc", "unix:"+private)
	return change(p.String(), whyPath)
}

func (r *rewriter) spice(o option) (edit, error) {
	p, err := read(o, "")
	if err != nil {
		return edit{}, err
	}
	if p.has("port") || p.has("tls-port") {
		return edit{}, refuse(o, "a second process cannot listen on the same port", "use -spice unix=on,addr=PATH")
	}
	if !p.on("unix") || p.str("addr") == "" {
		return keep()
	}
	private, err := r.name(o, NameSocket, p.str("addr"))
	if err != nil {
		return edit{}, err
	}
	p.set("addr", private)
	return change(p.String(), whyPath)
}

// audio refuses a file that two processes would write.
func (r *rewriter) audio(o option) (edit, error) {
	p, err := read(o, "driver")
	if err != nil {
		return edit{}, err
	}
	switch driver := p.str("driver"); driver {
	case "none", "spice":
	case "wav":
		return edit{}, refuse(o, "a second QEMU would empty the file", "use -audiodev none or spice")
	default:
		r.warn("%s: the sound of the host is opened by both QEMUs during a handoff", o.words())
	}
	return keep()
}

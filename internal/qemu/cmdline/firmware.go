package cmdline

import "strings"

// bootKernel is a file for the guest's firmware that QEMU has made of -kernel since 10.0 (x86_load_linux in hw/i386/x86-common.c), for every
// machine type.
const bootKernel = "etc/boot/kernel"

// addBootKernel gives an older QEMU the file that later ones have. Firmware asks QEMU for its files by number, and the numbers follow from the names of all of
// them; it reads the list of names once and goes by the numbers from then on. A guest that was handed over in between, to a QEMU with one file more or less,
// would get a wrong file under every number behind it: a wrong map of its memory, or no kernel.
func (r *rewriter) addBootKernel() {
	kernel := kernelOf(r.opts)
	if !r.facts.Paths[kernel].Linux || r.place.Version.AtLeast(10, 0) || r.hasFirmwareFile(bootKernel) {
		return
	}
	r.add("QEMU 10.0 and later show the kernel to the guest's firmware as a file, by which the numbers of other files change: "+
		"a guest that is handed over while its firmware runs must find the same files under the same numbers",
		"-fw_cfg", "name="+bootKernel+",file="+escape(kernel))
}

// kernelOf is the path of the kernel that QEMU loads itself; empty if the guest boots by other means.
func kernelOf(opts []option) string {
	kernel := ""
	for _, o := range opts {
		switch o.name {
		case "kernel":
			kernel = o.value
		case "machine":
			if p, err := read(o, "type"); err == nil && p.has("kernel") {
				kernel = p.str("kernel")
			}
		}
	}
	return kernel
}

// hasFirmwareFile tells whether the user has given the guest's firmware a file of that name.
func (r *rewriter) hasFirmwareFile(name string) bool {
	for _, o := range r.opts {
		if o.name != "fw_cfg" {
			continue
		}
		if p, err := read(o, "name"); err == nil && strings.TrimSpace(p.str("name")) == name {
			return true
		}
	}
	return false
}

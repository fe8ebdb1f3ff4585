package cmdline

import "strings"

// An option is one option of the line with its value, or a disk image without one (name is then empty).
type option struct {
	name   string // without dashes, -M and such resolved to their long form
	at     int    // index of the first of its arguments
	token  string // as it was written, such as -M or --machine; for a disk image the image
	value  string
	hasVal bool
	known  bool
	from   string // the file of -readconfig that it stands in
}

// arity says whether an option of QEMU takes a value. The table holds every option of qemu-system-x86_64 from 7.2
// to 11.1, read from the tables of 7.2, 10.0 and 11.1.
func arity() map[string]bool {
	m := make(map[string]bool, 160)
	for name := range strings.FieldsSeq(`S async-teardown audio-help daemonize enable-kvm enable-sync-profile full-screen h help
		jitdump mem-prealloc no-acpi no-fd-bootchk no-hpet no-reboot no-shutdown no-user-config nodefaults nographic old-param
		only-migratable perfmap portrait preconfig s semihosting singlestep one-insn-per-tick snapshot usb version win2k-hack
		xen-attach xen-domid-restrict`) {
		m[name] = false
	}
	for name := range strings.FieldsSeq(`D L M accel acpitable action add-fd append audio audiodev bios blockdev boot cdrom chardev
		chroot compat cpu d debugcon device dfilter display drive dtb dump-vmstate echr fda fdb fsdev fw_cfg g gdb global
		hda hdb hdc hdd icount incoming initrd iscsi k kernel loadvm m machine mem-path mon monitor msg mtdblock name net netdev
		nic numa object option-rom overcommit parallel pflash pidfile plugin prom-env qmp qmp-pretty qtest qtest-log readconfig
		rotate rtc run-with runas sandbox sd seed semihosting-config serial set shim smbios smp spice tpmdev trace usbdevice
		uuid vga virtfs vnc watchdog-action xen-domid`) {
		m[name] = true
	}
	m["id"] = true // Proxmox has it in QEMUs of its own
	return m
}

// parse splits args into options, as QEMU does: one or two dashes, the value always an argument of its own, and
// whatever has no dash is a disk image. A value that is missing at the end is an error.
func parse(args []string) ([]option, error) {
	known := arity()
	var opts []option
	for i := 0; i < len(args); i++ {
		tok := args[i]
		if !strings.HasPrefix(tok, "-") {
			opts = append(opts, option{at: i, token: tok, known: true})
			continue
		}
		o := option{name: optionName(tok), at: i, token: tok}
		o.hasVal, o.known = known[o.name]
		if !o.known {
			// Only a guess is left: what follows belongs to it unless it looks like an option.
			o.hasVal = i+1 < len(args) && !strings.HasPrefix(args[i+1], "-")
		}
		if o.hasVal {
			i++
			if i == len(args) {
				return nil, invalid(option{token: tok}, "it needs a value", "write the value as the next argument")
			}
			o.value = args[i]
		}
		opts = append(opts, o)
	}
	return opts, nil
}

// optionName is the long name of the option that tok stands for.
func optionName(tok string) string {
	name := strings.TrimPrefix(strings.TrimPrefix(tok, "-"), "-")
	if name == "M" {
		return "machine"
	}
	return name
}

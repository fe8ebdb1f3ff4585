package start_test

import (
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// What two processes cannot have at once is refused by the name of the argument, with its remedy, before anything starts.
func TestRefused(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	disk := "file=/dev/null,format=raw,if=virtio"
	for _, tt := range []struct {
		args string   // words
		says []string // besides the last argument itself
	}{
		{"-serial tcp:localhost:4444", []string{"connect there", "server=on"}},
		{"-serial udp::4555@:4556", []string{"unix:PATH"}},
		{"-chardev socket,id=c,path=/tmp/c,abstract=on,server=on,wait=off", []string{"abstract"}},
		{"-chardev socket,id=c,path=/tmp/c", []string{"connect", "server=on"}},
		{"-chardev socket,id=c,fd=3,server=on", []string{"descriptors of the caller"}},
		{"-vnc localhost:1,websocket=on", []string{"websocket"}},
		{"-spice port=5930,disable-ticketing=on", []string{"port", "unix=on"}},
		{"-display gtk", []string{"window", "-display none"}},
		{"-gdb tcp::1234", []string{"listen", "gdbserver"}},
		{"-s", []string{"1234", "gdbserver"}},
		{"-incoming defer", []string{"qlive itself", "leave it out"}},
		{"-incoming tcp:0:4444", []string{"qlive itself", "leave it out"}},
		{"-netdev user,id=n,guestfwd=tcp:10.0.2.100:80-cmd:cat", []string{"twice", "guestfwd"}},
		{"-netdev tap,id=n,fd=3", []string{"descriptors of the caller", "ifname="}},
		{"-netdev socket,id=n,listen=:1234", []string{"socket"}},
		{"-device vfio-pci,host=00:01.0", []string{"host", "virtio"}},
		{"-device usb-host,hostbus=1", []string{"host"}},
		{"-device vhost-vsock-pci,guest-cid=3", []string{"vhost"}},
		{"-device ivshmem-plain,memdev=m", []string{"other programs"}},
		{"-virtfs local,path=/tmp,mount_tag=t,security_model=none", []string{"9p", "disk image"}},
		{"-fsdev local,id=f,path=/tmp,security_model=none", []string{"9p", "disk image"}},
		{"-tpmdev passthrough,id=t", []string{"TPM"}},
		{"-drive " + disk + " -snapshot", []string{"overlay"}},
		{"-drive " + disk + ",snapshot=on", []string{"overlay"}},
		{"-add-fd fd=3,set=1", []string{"descriptors of the caller", "paths"}},
		{"-drive file=/dev/fdset/1,format=raw,if=virtio", []string{"descriptors of the caller"}},
		{"-global migration.x-ignore-shared=off", []string{"qlive's"}},
		{"-device loader,addr=0x1000,data=1,data-len=4", []string{"RAM", "file="}},
		{"-machine help", []string{"help"}},
		{"-chroot /tmp", []string{"paths of qlive"}},
		{"-machine none", []string{"none", "pc-q35"}},
		{"-machine pc-q35-99.9", []string{"pc-q35-99.9", "-machine help"}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			words := strings.Fields(tt.args)
			before := look(t, l)
			_, err := l.Client.StartVM(t.Context(), vmstate.VMSpec{Name: "vm1", Binary: l.Env.QEMU(env.Installed), Args: machineArgs(append([]string{"-m", "64"}, words...)...)})
			kind := vmstate.Unsupported
			option := words[0]
			if words[0] == "-drive" {
				option = words[len(words)-1] // of two, the one that is refused
			}
			if words[0] == "-machine" && words[1] != "help" {
				option = words[1]
			}
			refused(t, err, kind, append(tt.says, option)...)
			if after := look(t, l); after != before {
				t.Errorf("something is left: %+v, before %+v", after, before)
			}
		})
	}
	t.Run("several at once", func(t *testing.T) {
		args := machineArgs("-m", "64", "-vnc", ":1,websocket=on", "-incoming", "defer", "-netdev", "tap,id=n,fd=3")
		_, err := l.Client.StartVM(t.Context(), vmstate.VMSpec{Name: "vm1", Binary: l.Env.QEMU(env.Installed), Args: args})
		refused(t, err, vmstate.Unsupported, "-vnc :1", "-incoming defer", "-netdev tap,id=n,fd=3", "leave websocket out")
	})
	t.Run("the name is free afterwards", func(t *testing.T) {
		begin(t, l, vmstate.VMSpec{Args: machineArgs("-m", "64")})
		remove(t, l, "vm1")
	})
}

// What QEMU itself calls a blocker is refused with its words, before the guest's first instruction.
func TestBlockers(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	for _, tt := range []struct {
		name, version string
		args          []string
		words         string
	}{
		{"nvme", env.Installed, []string{"-drive", "if=none,id=d,format=raw,readonly=on,file=/dev/null", "-device", "nvme,serial=1,drive=d"}, "nvme"},
		{"virtio-sound", env.Newest, []string{"-audiodev", "none,id=a", "-device", "virtio-sound-pci,audiodev=a"}, "virtio-sound"},
		{"virtio-crypto", env.Installed, []string{"-device", "virtio-crypto-pci,cryptodev=c", "-object", "cryptodev-backend-builtin,id=c"}, "virtio-crypto"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := look(t, l)
			_, err := l.Client.StartVM(t.Context(), vmstate.VMSpec{Name: "vm1", Binary: l.Env.QEMU(tt.version), Args: machineArgs(append([]string{"-m", "64"}, tt.args...)...)})
			refused(t, err, vmstate.Unsupported, "could never be handed over", tt.words, "leave out the device or the option that QEMU names")
			if after := look(t, l); after != before {
				t.Errorf("something is left: %+v, before %+v", after, before)
			}
		})
	}
}

// A line that QEMU itself refuses is refused in QEMU's words.
func TestQEMURefuses(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	for _, tt := range []struct{ args, words string }{
		{"-device no-such-device", "no-such-device"},
		{"-device virtio-net-pci,no-such-property=1", "no-such-property"},
		{"-drive file=/no/such/disk,format=raw,if=virtio", "/no/such/disk"},
		{"-no-such-option", "-no-such-option"},
		{"-cpu no-such-cpu", "no-such-cpu"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			before := look(t, l)
			args := machineArgs(append([]string{"-m", "64"}, strings.Fields(tt.args)...)...)
			_, err := l.Client.StartVM(t.Context(), vmstate.VMSpec{Name: "vm1", Binary: l.Env.QEMU(env.Installed), Args: args})
			refused(t, err, vmstate.QEMU, tt.words)
			if after := look(t, l); after != before {
				t.Errorf("something is left: %+v, before %+v", after, before)
			}
		})
	}
}

// virtio-mem before 8.1 throws away the running guest's memory as it starts.
func TestVirtioMem(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	args := machineArgs("-m", "64M,maxmem=1G,slots=1", "-object", "memory-backend-ram,id=vm0,size=256M,reserve=off",
		"-device", "virtio-mem-pci,memdev=vm0,id=mem0,requested-size=0,block-size=2M")
	vm := begin(t, l, vmstate.VMSpec{Args: args, Binary: l.Env.QEMU(env.Backport)})
	if m := migrate(t, l, vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(env.Installed)}); m.Phase != vmstate.RolledBack || m.Error.Kind() != vmstate.Incompatible ||
		!strings.Contains(m.Error.Detail, "virtio-mem") || !strings.Contains(m.Error.Remedy, "8.1") {
		t.Errorf("to 7.2: %s, %+v", m.Phase, m.Error)
	}
	m := handOver(t, l, vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(env.Newest)})
	for _, r := range m.Regions {
		if got := allocated(t, m.To.PID, r); r.Name == "vm0" && got != 0 {
			t.Errorf("the handoff has filled %d bytes of what the guest has not plugged", got)
		}
		if r.Name == "vm0" && r.Note == "" {
			t.Error("nothing says why virtio-mem's region is not populated")
		}
	}
	remove(t, l, vm.Name)

	old := begin(t, l, vmstate.VMSpec{Args: args}) // 7.2 may start it, and hand it on
	if len(old.Warnings) == 0 || !strings.Contains(strings.Join(old.Warnings, "\n"), "8.1") {
		t.Errorf("the warnings are %q", old.Warnings)
	}
	handOver(t, l, vmstate.MigrationSpec{VM: old.Name, Binary: l.Env.QEMU(env.Backport)})
}

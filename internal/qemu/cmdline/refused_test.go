package cmdline_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// refused are lines, written as words, that no second process could run beside the first; the last words are what the
// error must name.
func refused() map[string]string {
	return map[string]string{
		"serial client":             `-serial tcp:host:4555`,
		"serial udp":                `-serial udp:4555@:4556`,
		"serial host device":        `-serial /dev/ttyS0`,
		"serial pipe":               `-serial pipe:/tmp/p`,
		"qmp on a file":             `-qmp file:/tmp/x`,
		"qmp unix client":           `-qmp unix:/run/x.sock`,
		"gdb":                       `-gdb tcp::1234`,
		"gdb short":                 `-s`,
		"vnc websocket":             `-vnc unix:/run/vnc,websocket=on`,
		"vnc reverse":               `-vnc host:5500,reverse=on`,
		"display gtk":               `-display gtk,gl=on`,
		"display curses":            `-display curses`,
		"spice port":                `-spice port=5930,disable-ticketing=on`,
		"spice tls":                 `-spice tls-port=5931`,
		"user net guestfwd":         `-netdev user,id=n,guestfwd=tcp:10.0.2.100:80-cmd:cat`,
		"user net smb":              `-netdev user,id=n,smb=/srv`,
		"tap by descriptor":         `-netdev tap,id=n,fd=3`,
		"tap by descriptors":        `-netdev tap,id=n,fds=3:4,vhost=on,vhostfds=5:6`,
		"tap by a name":             `-netdev tap,id=n,fd=mine`,
		"tap without queues":        `-netdev tap,id=n,ifname=t,queues=0`,
		"two VNC ports":             `-vnc :1 -vnc :2,id=b`,
		"vnc nowhere":               `-vnc here`,
		"vnc to nowhere":            `-vnc :1,to=x`,
		"chardev nowhere":           `-chardev socket,id=c,server=on`,
		"vhost-user net":            `-netdev vhost-user,id=n,chardev=c`,
		"socket net":                `-netdev socket,id=n,listen=:1234`,
		"stream net":                `-netdev stream,id=n,server=on,addr.type=unix,addr.path=/run/x`,
		"passt":                     `-nic passt`,
		"netdev without a type":     `-netdev id=n`,
		"chardev client":            `-chardev socket,id=c,path=/run/agent.sock,reconnect=1 -device virtio-serial -device virtserialport,chardev=c`,
		"chardev fd":                `-chardev socket,id=c,fd=3,server=on`,
		"chardev abstract":          `-chardev socket,id=c,path=x,abstract=on,server=on`,
		"chardev udp":               `-chardev udp,id=c,host=h,port=1`,
		"chardev tty":               `-chardev serial,id=c,path=/dev/ttyS0`,
		"chardev pipe":              `-chardev pipe,id=c,path=/tmp/p`,
		"chardev with qlive's id":   `-chardev null,id=qlive-qmp`,
		"incoming":                  `-incoming defer`,
		"incoming tcp":              `-incoming tcp:0:4444`,
		"add-fd":                    `-add-fd fd=3,set=2`,
		"fdset":                     `-drive file=/dev/fdset/2,if=virtio`,
		"inherited memory":          `-object memory-backend-file,id=m,size=1G,mem-path=/proc/self/fd/9`,
		"readconfig":                `-readconfig /etc/vm.cfg`,
		"set":                       `-set device.x.guid=auto`,
		"snapshot":                  `-snapshot`,
		"snapshot of a drive":       `-drive file=a.img,snapshot=on`,
		"nvme of the host":          `-blockdev driver=nvme,node-name=n,device=0000:01:00.0,namespace=1`,
		"tpm":                       `-tpmdev emulator,id=t,chardev=c -device tpm-tis,tpmdev=t`,
		"9p":                        `-virtfs local,path=/srv,mount_tag=srv,security_model=none`,
		"fsdev":                     `-fsdev local,id=f,path=/srv,security_model=none -device virtio-9p-pci,fsdev=f,mount_tag=t`,
		"vfio":                      `-device vfio-pci,host=0000:01:00.0`,
		"usb host":                  `-device usb-host,vendorid=0x1234`,
		"ivshmem":                   `-device ivshmem-plain,memdev=m`,
		"vhost-vsock":               `-device vhost-vsock-pci,guest-cid=3`,
		"vhost-user device as json": `-device {"driver":"vhost-user-fs-pci","chardev":"c"}`,
		"virtio-pmem":               `-device virtio-pmem-pci,memdev=m`,
		"evdev":                     `-object input-linux,id=k,evdev=/dev/input/event0`,
		"loader data":               `-device loader,addr=0x100,data=1,data-len=1`,
		"sev":                       `-machine q35,confidential-guest-support=sev0 -object sev-guest,id=sev0`,
		"memory encryption":         `-machine q35,memory-encryption=sev0`,
		"epc":                       `-object memory-backend-epc,id=m,size=64M`,
		"sgx machine":               `-machine q35,sgx-epc.0.memdev=m`,
		"machine memory size":       `-machine q35,memory.size=4G`,
		"xen machine":               `-machine xenfv-4.2`,
		"no machine":                `-machine none`,
		"numa mem":                  `-m 1G -numa node,mem=1G`,
		"numa without a backend":    `-m 1G -numa node,memdev=nothing`,
		"numa without memory":       `-m 1G -numa node -numa node`,
		"no such RAM":               `-machine q35,memory-backend=nothing`,
		"readonly memory":           `-object memory-backend-file,id=m,size=1G,mem-path=/dev/shm,readonly=on`,
		"pmem":                      `-object memory-backend-file,id=m,size=1G,mem-path=/dev/shm,pmem=on`,
		"template":                  `-object memory-backend-file,id=m,size=1G,mem-path=/srv/template,share=off`,
		"template, shared":          `-object memory-backend-file,id=m,size=1G,mem-path=/srv/template,share=on`,
		"mem-path is a file":        `-m 1G -mem-path /srv/template`,
		"offset":                    `-object memory-backend-file,id=m,size=1G,mem-path=/dev/shm,offset=2M`,
		"nvdimm":                    `-machine pc,nvdimm=on -object memory-backend-file,id=m,size=1G,mem-path=/srv/new -device nvdimm,memdev=m,id=n`,
		"memory without id":         `-object memory-backend-ram,size=1G`,
		"memory without size":       `-object memory-backend-ram,id=m`,
		"memory twice":              `-object memory-backend-ram,id=m,size=1G -object memory-backend-ram,id=m,size=1G`,
		"odd huge pages":            `-object memory-backend-file,id=m,size=1025K,mem-path=/dev/hugepages`,
		"odd huge RAM":              `-m 3 -mem-path /dev/hugepages`,
		"no RAM":                    `-m 0`,
		"rubbish RAM":               `-m lots`,
		"wav":                       `-audiodev wav,id=a,path=/tmp/a.wav`,
		"replay":                    `-icount shift=auto,rr=record,rrfile=r.bin`,
		"plugin":                    `-plugin libhotblocks.so`,
		"chroot":                    `-chroot /var/empty`,
		"run-with chroot":           `-run-with chroot=/var/empty`,
		"preconfig":                 `--preconfig`,
		"qtest":                     `-qtest unix:/tmp/q`,
		"migration's settings":      `-global migration.send-configuration=off`,
		"backend's settings":        `-global memory-backend-file.share=off`,
		"global, long":              `-global driver=memory-backend-file,property=share,value=off`,
		"help":                      `-help`,
		"machine help":              `-machine help`,
		"device help":               `-device virtio-net,help`,
		"version":                   `--version`,
		"dump":                      `-dump-vmstate /tmp/x`,
		"xen":                       `-xen-domid 3`,
		"no value":                  `-m`,
		"broken JSON":               `-device {"driver":"e1000",`,
		"single quotes":             `-device {'driver':'e1000'}`,
		"JSON named twice":          `-device {"driver":"e1000","driver":"vfio-pci"}`,
		"something after JSON":      `-device {"driver":"e1000"}x`,
		"same path twice":           `-pidfile /run/x -vnc unix:/run/x`,
		"empty pidfile":             `-pidfile,`,
		"two at once":               `-s -monitor tcp:host:1 -daemonize`,
		"zero byte":                 "-name a\x00b",
	}
}

func TestRefused(t *testing.T) {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(refused())) {
		args := strings.Split(refused()[name], " ")
		if name == "empty pidfile" {
			args = []string{"-pidfile", ""}
		}
		m, err := cmdline.ResolveMachine(args, machines())
		if err == nil {
			f := facts(t, args)
			f.Machine = m
			var line *cmdline.Line
			line, err = cmdline.Rewrite(args, f, first())
			if err == nil {
				t.Errorf("%s: accepted as %q", name, line.Argv())
				continue
			}
		}
		p := vmstate.ProblemOf(err)
		if k := p.Kind(); k != vmstate.Invalid && k != vmstate.Unsupported {
			t.Errorf("%s: kind is %s: %v", name, k, err)
		}
		if !strings.HasPrefix(p.Detail, "cannot ") || p.Remedy == "" {
			t.Errorf("%s: no sentence or no remedy: %+v", name, p)
		}
		fmt.Fprintf(&b, "# %s: %q\n%s\n", name, args, problem(err))
	}
	golden(t, "testdata/refused.golden", b.String())
}

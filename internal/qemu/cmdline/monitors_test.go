package cmdline_test

import (
	"slices"
	"strings"
	"testing"

	"qlive/internal/qemu/cmdline"
)

func TestMonitors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		line   string
		paths  []string
		others int
	}{
		{"none", "-m 256", nil, 0},
		{"-qmp", "-qmp unix:/run/a,server=on,wait=off", []string{"/run/a"}, 0},
		{"old notation", "-qmp-pretty unix:/run/a,server,nowait", []string{"/run/a"}, 0},
		{"relative", "-qmp unix:a.sock,server=on", []string{"a.sock"}, 0},
		{"libvirt", "-chardev socket,id=charmonitor,fd=22,server=on,wait=off -mon chardev=charmonitor,id=monitor,mode=control", nil, 1},
		{"Proxmox", "-chardev socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off -mon chardev=qmp,mode=control -chardev socket,id=qmp-event,path=/var/run/qmeventd.sock,reconnect=5 -mon chardev=qmp-event,mode=control",
			[]string{"/var/run/qemu-server/100.qmp"}, 1},
		{"human", "-monitor unix:/run/h,server=on", nil, 1},
		{"human by -mon", "-chardev socket,id=m,path=/run/h,server=on -mon m", nil, 1},
		{"stdio and none", "-monitor stdio -monitor none -serial null", nil, 1},
		{"TCP", "-qmp tcp:localhost:4444,server=on", nil, 1},
		{"by a character device", "-chardev socket,id=q,path=/run/q,server=on,wait=off -qmp chardev:q", []string{"/run/q"}, 0},
		{"an object", `-chardev {"backend":"socket"} -chardev socket,id=q,path=/run/q,server=on -object monitor-qmp,id=m,chardev=q`, []string{"/run/q"}, 0},
		{"dials out", "-qmp unix:/run/a", nil, 1},
		{"abstract", "-qmp unix:a,abstract=on,server=on", nil, 1},
		{"two", "-qmp unix:/run/a,server=on -qmp unix:/run/b,server=on", []string{"/run/a", "/run/b"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			paths, others := cmdline.Monitors(strings.Fields(tt.line))
			if !slices.Equal(paths, tt.paths) || others != tt.others {
				t.Errorf("got %q and %d others, want %q and %d", paths, others, tt.paths, tt.others)
			}
		})
	}
}

func TestCommand(t *testing.T) {
	for _, tt := range []struct {
		name, argv, binary, args string
	}{
		{"plain", "/usr/bin/qemu -m 1", "/usr/bin/qemu", "-m 1"},
		{"by the loader", "/l/ld-linux-x86-64.so.2 --library-path /l /l/qemu -m 1", "/l/qemu", "-m 1"},
		{"with its name", "/lib64/ld-linux-x86-64.so.2 --argv0 q --inhibit-cache /l/qemu -m 1", "/l/qemu", "-m 1"},
		{"by musl's loader", "/lib/ld-musl-x86_64.so.1 -- qemu -m 1", "qemu", "-m 1"},
		{"a loader alone", "/l/ld.so --library-path", "", ""},
		{"nothing", "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			binary, args := cmdline.Command(strings.Fields(tt.argv))
			if binary != tt.binary || strings.Join(args, " ") != tt.args {
				t.Errorf("got %q %q", binary, args)
			}
		})
	}
}

func TestDevices(t *testing.T) {
	ids := cmdline.Devices([]string{"-device", "virtio-rng-pci,id=a", "-device", `{"driver":"e1000","id":"b"}`, "-device", "usb-tablet", "-netdev", "user,id=c"})
	if len(ids) != 2 || !ids["a"] || !ids["b"] {
		t.Errorf("got %v", ids)
	}
}

// Whatever a process was run as, it is taken apart without a panic, and what is found stands in it.
func FuzzMonitors(f *testing.F) {
	for _, line := range []string{
		"/usr/bin/qemu-system-x86_64\x00-qmp\x00unix:/run/a,server=on,wait=off\x00",
		"/l/ld-linux-x86-64.so.2\x00--library-path\x00/l\x00/l/qemu\x00-mon\x00chardev=a,mode=control\x00-chardev\x00socket,id=a,path=/p,server\x00",
		"qemu\x00-chardev\x00{\"backend\":\"socket\"}\x00-object\x00monitor-qmp,chardev=x\x00-device\x00{",
		"", "\x00", "qemu\x00-qmp",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		binary, args := cmdline.Command(strings.Split(line, "\x00"))
		if !strings.Contains(line, binary) {
			t.Errorf("%q is not in %q", binary, line)
		}
		cmdline.Devices(args)
		paths, others := cmdline.Monitors(args)
		if slices.Contains(paths, "") || others < 0 {
			t.Errorf("%q and %d in %q", paths, others, line)
		}
	})
}

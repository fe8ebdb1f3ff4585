package field_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/integration/lab"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines are the command lines of package cmdline's own tests.
const lines = "../../internal/qemu/cmdline/testdata/field/"

// scratch is the file in the place of every disk.
const scratch = "scratch.img"

// manager is a line, and what a test changes of it for want of the host that it was written on.
type manager struct {
	file     string
	from, to string   // versions of QEMU
	replaced []string // pairs; {dir} is a folder of the test's own
	without  []string // an argument that holds one of these goes, with its option
	more     []string // arguments
	monitor  string   // the manager's own monitor, below {dir}; empty if it has none
}

func managers() []manager {
	libvirt := []string{
		"/var/lib/libvirt/qemu/domain--1-web", "{dir}", "/var/lib/libvirt/qemu/channel/target/domain--1-web", "{dir}", "/run/libvirt/qemu/channel/-1-web", "{dir}",
		"/var/lib/libvirt/images/web.qcow2", "{dir}/" + scratch, `"driver":"qcow2"`, `"driver":"raw"`,
		// With two threads QEMU 10.0.13 aborts now and then (one boot of fifty) while so many PCIe ports are set up (iotlb_to_section).
		"-accel\ntcg\n", "-accel\ntcg,thread=single\n",
	}
	proxmox := []string{
		"/var/run/qemu-server", "{dir}", "/usr/share/qemu-server", "{dir}", "/var/run/qmeventd.sock", "{dir}/qmeventd.sock",
		",splash=/usr/share/qemu-server/bootsplash.jpg", "", "+aes,enforce,+kvm_pv_eoi,+kvm_pv_unhalt,", "", // TCG has none of these
		"+pve0", "+pve0,accel=tcg", "pflash0=pflash0,pflash1=drive-efidisk0,", "",
		"script=/usr/libexec/qemu-server/pve-bridge,downscript=/usr/libexec/qemu-server/pve-bridgedown,vhost=on", "script=no,downscript=no", "tap101i0", fmt.Sprintf("qlf%d", os.Getpid()),
		"/dev/pve/vm-101-disk-0", "{dir}/" + scratch, "host_device", "file", "io_uring", "threads",
	}
	incus := []string{
		"/run/incus/c1", "{dir}", "/var/log/incus/c1", "{dir}", "host,hv_passthrough", "qemu64", `accel = "kvm"`, `accel = "tcg"`, "1024M", "256M",
		"linuxcontainers.incus", "linuxcontainers.incus", "incus", "nobody", // the user of -runas
		// Of a socket's text some is lost between one reader and the next.
		"backend = \"socket\"\npath = \"/run/incus/c1/qemu.console\"\nserver = \"on\"\nwait = \"off\"", `backend = "pty"`,
		"[drive]\nfile = \"/run/incus/c1/OVMF_CODE.4MB.fd\"\nif = \"pflash\"\nformat = \"raw\"\nunit = \"0\"\nreadonly = \"on\"\n", "",
	}
	hand := []string{"-enable-kvm", "-accel\ntcg", "\nhost\n", "\nqemu64\n", "-smp\n4", "-smp\n2", "4G", "256", "/srv/vm/disk.qcow2", "{dir}/" + scratch + ",format=raw"}
	serial := []string{"-serial", "stdio"} // these have none for the guest to speak on
	return []manager{
		{"libvirt-9.0-server-native", env.Installed, env.Backport, libvirt, nil, nil, "monitor.sock"},
		{"libvirt-11.3-server-native", env.Stable, env.Backport, libvirt, nil, nil, "monitor.sock"}, // 11.1 does not load its virtio-serial
		{"proxmox-9-tap", env.Installed, env.Newest, proxmox, nil, serial, "101.qmp"},
		{"proxmox-9-q35", env.Installed, env.Backport, proxmox, []string{`"node-name":"pflash0"`, "drive-efidisk0"}, serial, "102.qmp"},
		// Only Debian's own build has the SPICE that Incus asks for.
		{"incus-6-without-shares", env.Installed, env.Installed, incus, nil, nil, "qemu.monitor"},
		{"hand-server", env.Installed, env.Newest, hand, nil, nil, ""},
	}
}

// TestField starts a guest from each line and hands it over: no beat is lost, its memory is intact, and the manager's own monitor answers
// at its path, from the QEMU that has the guest now.
func TestField(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	for _, m := range managers() {
		t.Run(m.file, func(t *testing.T) {
			dir := filepath.Join(l.Dir, m.file)
			if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, scratch), nil, 0o666), os.Truncate(filepath.Join(dir, scratch), 64<<20)); err != nil {
				t.Fatal(err)
			}
			name := "field-" + strings.ReplaceAll(m.file, ".", "-")
			line := m.line(t, dir)
			vm := l.Start(lab.Spec{Name: name, QEMU: m.from, Line: line, Args: m.more, Guest: guest.Params{FillMiB: 16, DirtyMiB: 2, VerifySecs: -1}})
			if slices.Contains(line, "-S") { // as libvirt and Incus do, to let it run themselves
				if _, err := l.Client.Resume(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			t.Cleanup(func() {
				if err := l.Client.RemoveVM(context.Background(), name, true); err != nil {
					t.Error(err)
				}
			})
			vm.AwaitBoots(1)
			vm.AwaitBeats(50)
			vm.HandOver(m.to, vmstate.WayDeviceState)
			vm.AwaitBeats(50)
			vm.CheckMemory()
			if m.monitor == "" {
				return
			}
			if version := greeting(t, filepath.Join(dir, m.monitor)); version != m.to {
				t.Errorf("the monitor is one of QEMU %s, want %s", version, m.to)
			}
		})
	}
}

// line is the line as it can run here. What is in its file of options is changed the same way and written into dir.
func (m manager) line(t *testing.T, dir string) []string {
	t.Helper()
	var pairs []string
	for i := len(m.replaced) - 2; i >= 0; i -= 2 { // the later ones first: they are the longer
		pairs = append(pairs, m.replaced[i], m.replaced[i+1])
	}
	replace := func(text string) string {
		return strings.ReplaceAll(strings.NewReplacer(pairs...).Replace(text), "{dir}", dir)
	}
	text, err := os.ReadFile(lines + m.file + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, arg := range strings.Split(strings.TrimSuffix(replace(string(text)), "\n"), "\n") {
		if slices.ContainsFunc(m.without, func(word string) bool { return strings.Contains(arg, word) }) {
			args = args[:len(args)-1]
			continue
		}
		args = append(args, arg)
	}
	if i := slices.Index(args, "-readconfig"); i >= 0 {
		text, err := os.ReadFile(lines + m.file + ".conf")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(args[i+1], []byte(replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return args
}

// greeting is the version that a monitor greets with.
func greeting(t *testing.T, path string) string {
	t.Helper()
	c, err := net.DialTimeout("unix", path, lab.Limit)
	if err != nil {
		t.Fatalf("the manager's monitor: %v", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(lab.Limit)); err != nil {
		t.Fatal(err)
	}
	var hello struct {
		QMP struct {
			Version struct {
				QEMU struct{ Major, Minor, Micro json.Number }
			}
		}
	}
	if err := json.NewDecoder(c).Decode(&hello); err != nil {
		t.Fatalf("the manager's monitor at %s: %v", path, err)
	}
	v := hello.QMP.Version.QEMU
	return strings.Join([]string{v.Major.String(), v.Minor.String(), v.Micro.String()}, ".")
}

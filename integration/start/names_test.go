package start_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// tour is the guest's way in these tests: every step is another version.
func tour() []string { return []string{env.Newest, env.Backport, env.Installed} }

// Paths that the user named lead to the QEMU that has the guest, whichever that is, and are gone with the VM.
func TestPublicNames(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	dir := filepath.Join(l.Dir, "public")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	vm := begin(t, l, vmstate.VMSpec{Dir: dir, Args: machineArgs("-m", "64", "-daemonize", "-pidfile", "vm.pid", "-D", in("vm.log"),
		"-qmp", "unix:"+in("qmp.sock")+",server=on,wait=off",
		"-chardev", "socket,id=mon,path="+in("hmp.sock")+",server=on,wait=on", "-mon", "chardev=mon,mode=readline",
		"-serial", "unix:"+in("serial.sock")+",server,nowait",
		"-vnc", "unix:"+in("vnc.sock"))})
	if a := argv(t, vm, "-daemonize"); !a.Dropped || a.Why == "" {
		t.Errorf("-daemonize: %+v", a)
	}
	check := func(version string) {
		t.Helper()
		vm, err := l.Client.VM(t.Context(), "vm1")
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(in("vm.pid"))
		if pid, _ := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || pid != vm.PID {
			t.Errorf("the pidfile says %q (%v), the VM %d", text, err, vm.PID)
		}
		if got := versionAt(t, in("qmp.sock")); got != version {
			t.Errorf("QEMU %s listens on the user's monitor, want %s", got, version)
		}
		if got := human(t, in("hmp.sock"), "info version"); !strings.Contains(got, version) {
			t.Errorf("the human monitor says %q, want %s", got, version)
		}
		if got := greeting(t, in("vnc.sock")); !strings.HasPrefix(got, "RFB 003.") {
			t.Errorf("VNC greets with %q", got)
		}
		dial(t, in("serial.sock")).Close()
		if _, err := os.Stat(in("vm.log")); err != nil {
			t.Error(err)
		}
	}
	check(env.Installed)
	for _, version := range tour() {
		handOver(t, l, vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(version)})
		check(version)
	}
	// Of a handoff that is undone the names see nothing.
	m, err := l.Client.Migrate(t.Context(), vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(env.Newest), Hold: true}, "")
	if err != nil {
		t.Fatal(err)
	}
	reach(t, l, m.ID, vmstate.Prepared)
	check(env.Installed)
	if _, err := l.Client.Cancel(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	reach(t, l, m.ID, vmstate.Aborted)
	check(env.Installed)
	remove(t, l, vm.Name)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("%v are left (%v)", left, err)
	}
}

// A path where something is, or a socket that somebody answers on, is refused, and what is there stays.
func TestPublicNamesTaken(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	dir := filepath.Join(l.Dir, "public")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sock")
	args := machineArgs("-m", "64", "-qmp", "unix:"+path+",server=on,wait=off")
	begin(t, l, vmstate.VMSpec{Args: args})
	before := look(t, l)
	_, err := l.Client.StartVM(t.Context(), vmstate.VMSpec{Name: "vm2", Binary: l.Env.QEMU(env.Newest), Args: args})
	refused(t, err, vmstate.Conflict, path, "another path")
	if after := look(t, l); after != before {
		t.Errorf("something is left: %+v, before %+v", after, before)
	}
	if got := versionAt(t, path); got != env.Installed {
		t.Errorf("%s listens on the first VM's monitor", got)
	}
	remove(t, l, "vm1")
	begin(t, l, vmstate.VMSpec{Name: "vm2", Binary: l.Env.QEMU(env.Newest), Args: args})
	if got := versionAt(t, path); got != env.Newest {
		t.Errorf("%s listens on the second VM's monitor", got)
	}
}

// The line that was run is shown with what was changed and why; what was not changed is the user's own, in his order.
func TestArgv(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	args := []string{"-name", `a "quoted",, name`, "-accel", "tcg", "-M", "q35", "-m", "64", "-nodefaults", "-monitor", "stdio", "-serial", "stdio", "-daemonize",
		"-pidfile", "vm.pid", "-object", "memory-backend-ram,id=m,size=64M,share=off,prealloc=on", "-machine", "memory-backend=m", "-device", "vmgenid,guid=auto", "-vnc", "none", "-smbios", "type=1,serial=a b"}
	vm := begin(t, l, vmstate.VMSpec{Dir: l.Dir, Args: args})
	var was, run []string
	for i, a := range vm.Argv {
		switch {
		case i == 0:
			if a.Value != l.Env.QEMU(env.Installed) || a.Why != "" {
				t.Errorf("the line begins with %+v", a)
			}
			continue
		case a.Dropped || a.Was != "":
			was = append(was, a.Was)
		case a.Why == "":
			was = append(was, a.Value)
		}
		if !a.Dropped {
			run = append(run, a.Value)
		}
		if changed := a.Was != "" || a.Dropped; changed && a.Why == "" {
			t.Errorf("nothing says why: %+v", a)
		}
	}
	if strings.Join(was, "\n") != strings.Join(args, "\n") {
		t.Errorf("the user's line has become %q, it was %q", was, args)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", vm.PID))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")[1:]; strings.Join(got, "\n") != strings.Join(run, "\n") {
		t.Errorf("QEMU was started with %q, shown is %q", got, run)
	}
	for text, why := range map[string]string{
		"-monitor": "-monitor unix:PATH", "-daemonize": "background", "share=off": "share=on", "vmgenid,guid=auto": "for its life", "/vm1/g0/own/u0-vm.pid": "its own",
		"type=pc-q35-7.2": "", "chardev=qlive-qmp": "qlive's own monitor", "-S": "first instruction",
	} {
		if text == "type=pc-q35-7.2" {
			if a := argv(t, vm, "q35"); a.Value != "pc-q35-7.2" || !strings.Contains(a.Why, "machine type") {
				t.Errorf("the alias q35 is run as %+v", a)
			}
			continue
		}
		if a := argv(t, vm, text); !strings.Contains(a.Why, why) {
			t.Errorf("%s: %+v, want a reason that says %q", text, a, why)
		}
	}
	if a := argv(t, vm, "id=m,"); !strings.Contains(a.Why, "prealloc dropped") || strings.Contains(a.Value, "prealloc") {
		t.Errorf("prealloc: %+v", a)
	}
	handOver(t, l, vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(env.Newest)})
	after, err := l.Client.VM(t.Context(), vm.Name)
	if err != nil {
		t.Fatal(err)
	}
	if a := argv(t, after, "-incoming"); a.Why == "" || argv(t, after, "vmgenid").Value != argv(t, vm, "vmgenid").Value {
		t.Errorf("the next generation's line is %+v", after.Argv)
	}
	if old, err := os.Readlink(filepath.Join(l.Dir, "vm.pid")); err != nil || !strings.Contains(old, "/g1/") {
		t.Errorf("the pidfile leads to %q, %v", old, err)
	}
}

// A GUID that QEMU is to make up is made up once, for the guest's life.
func TestVMGenerationID(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	path := filepath.Join(l.Dir, "qmp")
	guid := func() string {
		t.Helper()
		c := monitor(t, path)
		defer c.Close()
		var answer struct {
			GUID string `json:"guid"`
		}
		if err := c.Do(t.Context(), "query-vm-generation-id", nil, &answer); err != nil {
			t.Fatal(err)
		}
		return answer.GUID
	}
	args := machineArgs("-m", "64", "-device", "vmgenid,guid=auto,id=gen", "-qmp", "unix:"+path+",server=on,wait=off")
	vm := begin(t, l, vmstate.VMSpec{Args: args})
	first := guid()
	if len(first) != 36 {
		t.Errorf("the GUID is %q", first)
	}
	for _, version := range tour() {
		handOver(t, l, vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(version)})
		if got := guid(); got != first {
			t.Errorf("in %s the GUID is %s, it was %s", version, got, first)
		}
	}
	remove(t, l, vm.Name)
	begin(t, l, vmstate.VMSpec{Args: args})
	if got := guid(); got == first {
		t.Error("another guest has the same GUID")
	}
}

func versionAt(t *testing.T, path string) string {
	t.Helper()
	c := monitor(t, path)
	defer c.Close()
	v := c.Version()
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("unix", path, lab.Limit)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(lab.Limit)); err != nil {
		t.Fatal(err)
	}
	return c
}

// greeting is the first line that a server says.
func greeting(t *testing.T, path string) string {
	t.Helper()
	c := dial(t, path)
	defer c.Close()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// human asks the human monitor for something and returns all that it says until its next prompt.
func human(t *testing.T, path, command string) string {
	t.Helper()
	c := dial(t, path)
	defer c.Close()
	if _, err := fmt.Fprintf(c, "%s\n", command); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	buf := make([]byte, 4096)
	for strings.Count(said.String(), "(qemu) ") < 2 {
		n, err := c.Read(buf)
		said.Write(buf[:n])
		if err != nil {
			t.Fatalf("the monitor said %q: %v", said.String(), err)
		}
	}
	return said.String()
}

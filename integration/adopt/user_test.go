package adopt_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"qlive/daemon"
	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// A user's QEMU is followed by QEMUs of that user, whatever the configuration says of others, and nothing is made at the paths that he chose:
// the daemon would make it as root.
func TestUser(t *testing.T) {
	const nobody = 65534
	l := lab.New(t, lab.Options{NoTree: true, Configure: func(c *daemon.Config) { c.User = "root" }})
	if err := os.Chmod(l.Dir, 0o711); err != nil {
		t.Fatal(err)
	}
	file := ram(t, 64*mib)
	if err := os.Chown(file, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	s := startAs(t, l, &syscall.Credential{Uid: nobody, Gid: nobody}, env.Installed,
		firmware("-machine", "memory-backend=ram0", "-object", "memory-backend-file,share=on,id=ram0,size=64M,mem-path="+file)...).up()
	if a := s.adopt("vm1").Adoption; a.UID != nobody || !strings.Contains(strings.Join(a.Interrupted, "\n"), "makes no links for other users") {
		t.Errorf("the report is %+v", a)
	}
	s.handOver(vmstate.MigrationSpec{VM: "vm1", Binary: l.Env.QEMU(env.Installed)})
	<-s.ended
	vm, err := l.Client.VM(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", vm.PID))
	if err != nil || !strings.Contains(string(status), "Uid:\t65534\t65534\t65534\t65534\n") {
		t.Errorf("the next QEMU is of another user: %v\n%s", err, status)
	}
	if info, err := os.Lstat(s.monitor); err == nil && info.Mode()&os.ModeSymlink != 0 {
		t.Error("there is a link at the path that the user chose")
	}
}

// An adopted guest whose QEMU ends is a VM that has stopped, and can be started as one of qlive's own.
func TestStartedAfterwards(t *testing.T) {
	l := lab.New(t, lab.Options{NoTree: true})
	s := start(t, l, env.Installed, firmware()...).up()
	s.adopt("vm1")
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	l.Eventually("the VM is seen to have ended", func() error {
		vm, err := l.Client.VM(t.Context(), "vm1")
		if err == nil && (vm.Status != vmstate.Broken || vm.PID != 0 || vm.Adoption != nil) {
			err = fmt.Errorf("it is %+v", vm)
		}
		return err
	})
	vm, err := l.Client.StartStoppedVM(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	if len(vm.Regions) != 1 || vm.Regions[0].Backing != vmstate.Memfd {
		t.Errorf("it is %+v", vm)
	}
}

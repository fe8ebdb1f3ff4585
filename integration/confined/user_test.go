package confined_test

import (
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"qlive/daemon"
	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/internal/cgroup"
	"qlive/vmstate"
)

const nobody = "nobody"

// strict is the sandbox of QEMU at its strictest.
const strict = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// An unprivileged QEMU in a sandbox and in a cgroup of its VM is handed over to another one that is confined just so, and back.
func TestConfinedAlike(t *testing.T) {
	s := newScene(t, func(c *daemon.Config) { c.User, c.Cgroup = nobody, "auto" })
	public := filepath.Join(s.folder(t, 0o755), "qmp.sock")
	spec := lab.Spec{Guest: small(), Args: []string{"-sandbox", strict, "-name", "guest=vm1,debug-threads=on", "-qmp", "unix:" + public + ",server=on,wait=off"}}
	vm := s.Boot(spec)
	source := vm.Show()
	for _, w := range source.Warnings {
		if strings.Contains(w, "cgroup") {
			t.Errorf("warned: %s", w)
		}
	}
	s.alike(t, source.PID, "0")
	for i, version := range []string{env.Newest, env.Backport, env.Stable, env.Installed} {
		m := s.hold(t, vm, s.Env.QEMU(version))
		if score := procFile(t, m.To.PID, "oom_score_adj"); score != "1000" {
			t.Errorf("the oom_score_adj of one that waits is %s", score)
		}
		if source, target := procFile(t, m.From.PID, "cgroup"), procFile(t, m.To.PID, "cgroup"); source != target || !strings.HasSuffix(target, "/vm1") {
			t.Errorf("the cgroups are %s and %s", source, target)
		}
		s.goOn(t, vm, m.ID)
		s.alike(t, m.To.PID, "0")
		if name := procFile(t, m.To.PID, "comm"); name != "qemu-system-x86" {
			t.Errorf("the process is called %q", name)
		}
		if i == 0 {
			vm.CheckMemory()
		}
	}
	if _, err := os.Stat(public); err != nil {
		t.Error(err)
	}
	s.untouchable(t)
	vm.CheckMemory()
	vm.Type("reboot")
	vm.AwaitBoots(2)
	vm.CheckTruth()
}

// alike looks at how a QEMU of the VM is confined.
func (s *scene) alike(t *testing.T, pid int, score string) {
	t.Helper()
	u, err := user.Lookup(nobody)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Uid": strings.Join([]string{u.Uid, u.Uid, u.Uid, u.Uid}, " "), "Gid": strings.Join([]string{u.Gid, u.Gid, u.Gid, u.Gid}, " "),
		"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "Seccomp": "2",
	} {
		if got := status(t, pid, name); got != want {
			t.Errorf("%s of process %d is %s, want %s", name, pid, got, want)
		}
	}
	if got := procFile(t, pid, "oom_score_adj"); got != score {
		t.Errorf("the oom_score_adj is %s, want %s", got, score)
	}
}

// untouchable makes sure that QEMU's user can change nothing in the run directory but what its QEMU itself has made.
func (s *scene) untouchable(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(s.RunDir(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			t.Fatal("no stat")
		}
		mine := st.Uid == 0 && info.Mode().Perm()&0o022 == 0
		console := strings.HasPrefix(e.Name(), "console.")
		if !mine && !console && !strings.Contains(path, "/own") {
			t.Errorf("%s is the user %d's, mode %s", path, st.Uid, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// What a user cannot get to is said in QEMU's own words, and a guest whose next QEMU cannot be its user's is not lost.
func TestUserLacksSomething(t *testing.T) {
	s := newScene(t, func(c *daemon.Config) { c.User = nobody })
	image := filepath.Join(s.folder(t, 0o700), "disk")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := s.TryStart(lab.Spec{Bare: true, Args: []string{"-drive", "if=virtio,format=raw,file=" + image}})
	if err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("an image that the user cannot open: %v", err)
	}
	vm := s.Start(lab.Spec{Bare: true})
	secret := filepath.Join(s.bin, "secret")
	text, err := os.ReadFile(s.Env.QEMU(env.Newest))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secret, text, 0o700); err != nil {
		t.Fatal(err)
	}
	m := vm.Migrate(vmstate.MigrationSpec{Binary: secret})
	if m.Phase != vmstate.RolledBack || m.Error == nil || !strings.Contains(m.Error.Detail+strings.Join(m.Error.QEMU, ""), "ermission denied") {
		t.Errorf("a binary that the user cannot read: %s, %+v", m.Phase, m.Error)
	}
	vm.HandOver(env.Newest, "")
}

// A file system that somebody serves can show anything, owners included: no binary is run from there.
func TestNothingFromFUSE(t *testing.T) {
	s := newScene(t, nil)
	link := filepath.Join(s.bin, "link")
	if err := os.Symlink(filepath.Join(s.Mount, "version"), link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(s.Mount, "version"), link} {
		_, err := s.Client.StartVM(t.Context(), vmstate.VMSpec{Name: "vm1", Binary: path, Args: []string{}})
		if vmstate.KindOf(err) != vmstate.Denied || !strings.Contains(err.Error(), "FUSE") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Where each VM has a user of its own, none can look into another's memory.
func TestAUserForEachVM(t *testing.T) {
	s := newScene(t, func(c *daemon.Config) { c.User = "{vm}" })
	for name, uid := range map[string]string{"nobody": "65534", "daemon": "1"} { // users that every host has
		vm := s.Start(lab.Spec{Name: name, Bare: true}).Show()
		if got := status(t, vm.PID, "Uid"); !strings.HasPrefix(got, uid+" ") {
			t.Errorf("the QEMU of %s runs as %s", name, got)
		}
	}
	if _, err := s.TryStart(lab.Spec{Name: "vm1", Bare: true}); vmstate.KindOf(err) != vmstate.Invalid || !strings.Contains(err.Error(), "vm1") {
		t.Errorf("a VM that has no user: %v", err)
	}
}

// Limits of a VM that this host can keep are kept for all of its QEMUs; others are refused by name.
func TestLimits(t *testing.T) {
	s := newScene(t, func(c *daemon.Config) { c.Cgroup = "auto" })
	ctx := t.Context()
	start := func(l vmstate.Limits) error {
		_, err := s.Client.StartVM(ctx, vmstate.VMSpec{Name: "vm1", Binary: s.Env.QEMU(env.Installed), Args: s.Args(lab.Spec{Bare: true}), Limits: l})
		return err
	}
	if err := start(vmstate.Limits{OOMScoreAdj: 1001}); vmstate.KindOf(err) != vmstate.Invalid {
		t.Errorf("no such score: %v", err)
	}
	if err := start(vmstate.Limits{MemoryBytes: 1 << 30, OOMScoreAdj: 200}); vmstate.KindOf(err) == vmstate.Unsupported {
		if !strings.Contains(err.Error(), "memory") || !strings.Contains(err.Error(), "controllers") {
			t.Errorf("the refusal does not say what is missing: %v", err)
		}
		t.Logf("this host cannot limit memory: %v", err)
		if err := start(vmstate.Limits{OOMScoreAdj: 200}); err != nil {
			t.Fatal(err)
		}
	} else if err != nil {
		t.Fatal(err)
	}
	vm, err := s.Client.VM(ctx, "vm1")
	if err != nil {
		t.Fatal(err)
	}
	if got := procFile(t, vm.PID, "oom_score_adj"); got != "200" {
		t.Errorf("the oom_score_adj is %s", got)
	}
	groups := cgroupFolder(t, vm.PID)
	if err := s.Client.RemoveVM(ctx, "vm1", true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(groups); !os.IsNotExist(err) {
		t.Errorf("the cgroup %s is still there: %v", groups, err)
	}
}

// cgroupFolder is the folder of a process' cgroup (v2).
func cgroupFolder(t *testing.T, pid int) string {
	t.Helper()
	mount, err := cgroup.Mount()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(procFile(t, pid, "cgroup")) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			if !strings.HasSuffix(path, "/vm1") {
				t.Fatalf("process %d is in %s", pid, path)
			}
			return filepath.Join(mount, path)
		}
	}
	t.Fatal("no cgroup v2 in " + strconv.Itoa(pid))
	return ""
}

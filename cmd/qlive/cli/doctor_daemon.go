package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"qlive/daemon/survey"
	"qlive/internal/qemu"
	"qlive/vmstate"
)

// hangTime is how long a daemon may take to say what it is.
const hangTime = 5 * time.Second

// daemonFindings look at the daemon, whether it lives or not.
func (a *app) daemonFindings(ctx context.Context, dirs survey.Dirs) []finding {
	socket, pid := a.socketFindings()
	findings := append(socket, a.runDir(dirs.Run))
	if pid == 0 {
		return append(append(findings, a.tree(false)), a.leftFindings(dirs)...)
	}
	findings = append(findings, limits(pid), a.tree(true), namespaces(pid))
	soon, cancel := context.WithTimeout(ctx, hangTime)
	defer cancel()
	version := a.daemonVersion(soon)
	if findings = append(findings, version); version.Level == levelFail { // it hangs: what it has written down is there all the same
		return append(findings, a.leftFindings(dirs)...)
	}
	return append(append(findings, a.health(ctx)), a.guests(ctx)...)
}

// socketFindings look at the socket, and give the process that listens, 0 for none.
func (a *app) socketFindings() ([]finding, int) {
	const name = "socket"
	info, err := os.Lstat(a.socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []finding{fail(name, "start qlive daemon, or say where it listens with --socket", "there is no %s", a.socket)}, 0
	case err != nil:
		return []finding{fail(name, "use sudo", "%v", err)}, 0
	case info.Mode().Type() != fs.ModeSocket:
		return []finding{fail(name, "move it away", "%s is no socket", a.socket)}, 0
	}
	var findings []finding
	if info.Mode().Perm()&0o002 != 0 {
		findings = append(findings, warn(name, "chmod 0660 "+a.socket, "everybody may connect to %s (mode %#o), and look", a.socket, info.Mode().Perm()))
	}
	conn, err := net.DialTimeout("unix", a.socket, 5*time.Second)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return append(findings, fail(name, "use sudo, or let an administrator add you to the socket's group", "you may not connect to %s", a.socket)), 0
	case err != nil:
		return append(findings, fail(name, "start qlive daemon", "nobody answers on %s", a.socket)), 0
	}
	defer conn.Close()
	pid := peerPID(conn)
	return append(findings, ok(name, "process %d answers on %s", pid, a.socket)), pid
}

// peerPID is the process at the other end; -1 if the kernel does not say, as across pid namespaces.
func peerPID(conn net.Conn) int {
	pid := -1
	if raw, err := conn.(*net.UnixConn).SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { // -1 says that it did not work
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && cred.Pid > 0 {
				pid = int(cred.Pid)
			}
		})
	}
	return pid
}

func (a *app) runDir(dir string) finding {
	var st unix.Statfs_t
	err := unix.Statfs(filepath.Join("/", a.Root, dir), &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return ok("run-dir", "%s is not there yet", dir)
	case err != nil:
		return warn("run-dir", "", "%s: %v", dir, err)
	case st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC:
		return warn("run-dir", "set run_dir to a folder below /run", "%s is on a disk: the journal is slower there, and outlives the guests that it is about", dir)
	}
	return ok("run-dir", "%s is a tmpfs, %s free", dir, size(st.Bavail*uint64(st.Bsize)))
}

// limits of the daemon, not of this command.
func limits(pid int) finding {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return warn("limits", "", "cannot read those of the daemon: %v", err)
	}
	const low = 1024 // a VM takes some dozen descriptors in a handoff
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			var soft, hard uint64
			if _, err := fmt.Sscan(rest, &soft, &hard); err == nil && hard < low {
				return warn("limits", "set LimitNOFILE= in the daemon's unit", "the daemon may have %d descriptors", hard)
			} else if err == nil {
				return finding{Level: levelOK, Name: "limits", Detail: fmt.Sprintf("the daemon may have %d descriptors, %d at most", soft, hard)}
			}
		}
	}
	return ok("limits", "no limit on descriptors")
}

// tree looks into the table of mounts, and not at the mount: a dead one can hang.
func (a *app) tree(alive bool) finding {
	const name = "tree"
	f, err := os.Open(filepath.Join("/", a.Root, "/proc/self/mountinfo"))
	if err != nil {
		return warn(name, "", "cannot tell what is mounted: %v", err)
	}
	defer f.Close()
	var at []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		where, kind, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(where); strings.HasPrefix(kind, "fuse.qlive ") && len(fields) > 4 {
			at = append(at, fields[4])
		}
	}
	switch {
	case len(at) == 0 && alive:
		return warn(name, "unless it was started with --mount none, see its log", "the daemon has mounted no tree that can be seen from here")
	case len(at) == 0:
		return ok(name, "not mounted")
	case !alive:
		return warn(name, "if no other daemon mounted it, umount -l "+quote(at[0])+"; the daemon does so itself when it starts", "%s is mounted, and nobody answers on the socket", strings.Join(at, ", "))
	}
	return ok(name, "mounted on %s", strings.Join(at, ", "))
}

func namespaces(pid int) finding {
	mine, err := os.Readlink("/proc/self/ns/mnt")
	theirs, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	switch {
	case err != nil || err2 != nil:
		return ok("namespace", "only root can tell whether the daemon's mounts can be seen from here")
	case mine != theirs:
		return warn("namespace", "take PrivateTmp, ProtectSystem and the like out of the daemon's unit", "the daemon has a mount namespace of its own: its tree cannot be seen from here")
	}
	return ok("namespace", "the daemon's mounts can be seen from here")
}

func (a *app) daemonVersion(ctx context.Context) finding {
	v, err := a.api().Version(ctx)
	switch {
	case err != nil:
		return fail("version", cmp.Or(remedyOf(err), "see the daemon's log; if it hangs, kill it and start it again: guests run on meanwhile"), "the daemon does not say what it is: %v", err)
	case v.Version != a.Version:
		return warn("version", "restart the daemon; guests run on meanwhile", "the daemon is %s and this command %s", v.Version, a.Version)
	}
	return ok("version", "%s", v.Version)
}

func (a *app) health(ctx context.Context) finding {
	if err := a.api().Ready(ctx); err != nil {
		return fail("health", remedyOf(err), "%v", err)
	}
	if _, err := a.api().Health(ctx); err != nil {
		return fail("health", remedyOf(err), "%v", err)
	}
	return ok("health", "the daemon is ready")
}

func remedyOf(err error) string { return vmstate.ProblemOf(err).Remedy }

// guests look at each VM.
func (a *app) guests(ctx context.Context) []finding {
	vms, err := a.api().VMs(ctx)
	if err != nil {
		return []finding{fail("vms", remedyOf(err), "%v", err)}
	}
	running := 0
	var findings []finding
	for _, vm := range vms {
		name := "vm " + vm.Name
		switch {
		case vm.Status == vmstate.Broken && vm.Error != nil:
			findings = append(findings, fail(name, vm.Error.Remedy, "%s", vm.Error.Detail))
		case vm.Status == vmstate.Broken:
			findings = append(findings, fail(name, "qlive show "+vm.Name, "it has failed"))
		case vm.Status != vmstate.Stopped:
			running++
		}
		if vm.QEMU.Outdated {
			findings = append(findings, warn(name, "qlive upgrade "+vm.Name, "it runs QEMU %s, and %s is another file by now", vm.QEMU.Version, vm.QEMU.Binary))
		}
		for _, text := range vm.Warnings {
			findings = append(findings, warn(name, "", "%s", text))
		}
	}
	return append([]finding{ok("vms", "%d of %d run", running, len(vms))}, findings...)
}

// binaryFindings ask the QEMUs for this machine that are in PATH what they are.
func (a *app) binaryFindings(ctx context.Context) []finding {
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	program := "qemu-system-" + cmp.Or(arch, runtime.GOARCH)
	var findings []finding
	var seen []string
	prober := qemu.NewProber(nil)
	for _, dir := range filepath.SplitList(a.Getenv("PATH")) {
		path := filepath.Join(dir, program)
		real, err := filepath.EvalSymlinks(path)
		if err != nil || !filepath.IsAbs(path) || slices.Contains(seen, real) {
			continue
		}
		seen = append(seen, real)
		findings = append(findings, a.binary(ctx, prober, path))
	}
	if len(findings) == 0 {
		return []finding{warn("qemu", "apt install qemu-system-x86, or name another binary", "there is no %s in PATH", program)}
	}
	return findings
}

func (a *app) binary(ctx context.Context, prober *qemu.Prober, path string) finding {
	binary, err := qemu.Admit(path, nil)
	if err != nil {
		return fail("qemu", remedyOf(err), "%v", err)
	}
	info, err := prober.Probe(ctx, binary)
	if err != nil {
		return fail("qemu", remedyOf(err), "%v", err)
	}
	return ok("qemu", "%s is %s, with %d machine types", path, info.Version, len(info.Machines))
}

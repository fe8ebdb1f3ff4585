package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/guest"
	"qlive/vmstate"
)

// check tells what is missing before anything is made.
func check(o Options) error {
	if os.Geteuid() != 0 {
		return vmstate.Errorf(vmstate.Denied, "cannot run the demonstration as the user %d: the daemon mounts its tree and runs QEMUs as root", os.Geteuid()).
			With("sudo make demo")
	}
	if o.MemoryMiB < MinMemoryMiB {
		return vmstate.Errorf(vmstate.Invalid, "cannot run the guest with %d MiB of memory: it needs %d", o.MemoryMiB, MinMemoryMiB)
	}
	if !slices.Contains([]string{"", accelKVM, accelTCG}, o.Accel) {
		return vmstate.Errorf(vmstate.Invalid, "cannot run the guest on %q", o.Accel).With("choose kvm or tcg")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot mount the tree: %w", err).
			With("modprobe fuse; in a container, give it the device /dev/fuse and the capability SYS_ADMIN")
	}
	_ = f.Close() // nothing was done with it
	for _, program := range []string{"curl", "cat"} {
		if _, err := exec.LookPath(program); err != nil {
			return vmstate.Errorf(vmstate.NotFound, "cannot show what REST says: %s is not installed", program).With("`make demo` installs what it lacks, on Debian 12 and as root")
		}
	}
	return nil
}

// cast is what the show is played with.
type cast struct {
	env    env.Env
	path   []string // versions that have the guest, one after the other
	initrd string
	accel  string // kvm or tcg
}

// findCast finds out what is there, and what the guest can run on.
func findCast(ctx context.Context, accel string, p *place, out *screen) (cast, error) {
	e, err := env.Locate()
	if _, some := errors.AsType[*env.MissingError](err); err != nil && !some {
		return cast{}, vmstate.Errorf(vmstate.NotFound, "%w", err)
	}
	c := cast{env: e, path: pathThrough(e.Found())}
	if e.Kernel == "" || c.path == nil {
		return cast{}, vmstate.Errorf(vmstate.NotFound, "%w", err).With("`make demo` fetches what it lacks, on Debian 12 and as root")
	}
	if c.path[0] == c.path[1] {
		out.text("There is only QEMU %s here: the guest goes to a second instance of it.", c.path[0])
		out.text("")
	}
	out.live("building the guest …")
	if c.initrd, err = guest.Build(ctx, e.Cache); err != nil {
		return cast{}, vmstate.Errorf(vmstate.Host, "%w", err)
	}
	if c.accel, err = c.accelerator(ctx, accel, p, out); err != nil {
		return cast{}, err
	}
	return c, nil
}

// accelerator is what the guest runs on: the one that was asked for, else KVM if Linux boots on it.
func (c cast) accelerator(ctx context.Context, asked string, p *place, out *screen) (string, error) {
	if asked != "" {
		return asked, nil
	}
	why := env.KVM()
	if why == nil {
		why = c.tryKVM(ctx, p, out)
	}
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case why == nil:
		return accelKVM, nil
	}
	out.text("KVM does not run Linux here: %v.", cause(why))
	out.text("So the guest is emulated (TCG), which is slower and goes the same way.")
	out.text("")
	return accelTCG, nil
}

// What a guest can run on.
const (
	accelKVM = "kvm"
	accelTCG = "tcg"
)

// cause is the last error of the chain.
func cause(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}

// pathThrough is the way from the oldest through the newer ones and back; with one version alone to itself and back. 10.0.2 and
// 10.0.13 are both 10.0, and one of them is enough.
func pathThrough(found []string) []string {
	var path []string
	for _, v := range found {
		if v == env.Stable && len(path) > 0 && path[len(path)-1] == env.Backport {
			continue
		}
		path = append(path, v)
	}
	switch len(path) {
	case 0:
		return nil
	case 1:
		path = append(path, path[0])
	}
	return append(path, path[0])
}

// commandLine is how the guest is started, as its owner would write it.
func (c cast) commandLine(p *place, memory, fill int) string {
	// Verifications are asked for: one that comes by itself would only add to what the guest does meanwhile.
	line := guest.Append(guest.Params{FillMiB: fill, VerifySecs: -1})
	return fmt.Sprintf(`qlive run %s -- %s -machine pc-q35-7.2,accel=%s -cpu qemu64 -m %d -nodefaults -display none -serial stdio -kernel %s -initrd %s -append "%s"`,
		vm, p.binary(c.path[0]), c.accel, memory, p.file("vmlinuz"), p.file("initrd"), line)
}

// kvmLimit is how long Linux may take to boot under KVM; it takes less than one second.
const kvmLimit = 5 * time.Second

// tryKVM says why Linux does not boot under KVM. Only trying tells: the KVM of a virtual machine may run firmware and no more.
func (c cast) tryKVM(ctx context.Context, p *place, out *screen) error {
	out.live("trying whether KVM boots Linux here, for up to %s …", kvmLimit)
	ctx, cancel := context.WithTimeoutCause(ctx, kvmLimit, fmt.Errorf("it did not come up within %s", kvmLimit))
	defer cancel()
	seen := &watcher{word: []byte("GUEST-UP"), found: cancel}
	cmd := exec.CommandContext(ctx, c.env.QEMU(c.path[0]), "-machine", "pc-q35-7.2,accel=kvm", "-cpu", "qemu64", "-m", "256",
		"-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", c.env.Kernel, "-initrd", c.initrd, "-append", guest.Append(guest.Params{}))
	cmd.Env, cmd.Dir, cmd.Stdout = p.environ(), p.dir, seen
	var words bytes.Buffer
	cmd.Stderr = &words
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C is for the demonstration
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case seen.done:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	if said := strings.TrimSpace(words.String()); said != "" {
		return errors.New(last(said))
	}
	return fmt.Errorf("QEMU has ended: %w", err)
}

func last(text string) string {
	lines := strings.Split(text, "\n")
	return lines[len(lines)-1]
}

// watcher looks for a word in what is written to it.
type watcher struct {
	word  []byte
	tail  []byte
	found func()
	done  bool
}

func (w *watcher) Write(p []byte) (int, error) {
	w.tail = append(w.tail, p...)
	if !w.done && bytes.Contains(w.tail, w.word) {
		w.done = true
		w.found()
	}
	w.tail = w.tail[max(0, len(w.tail)-len(w.word)):]
	return len(p), nil
}

// furnish puts what the commands name into the folder, under short names.
func (p *place) furnish(program string, c cast) error {
	links := map[string]string{"vmlinuz": c.env.Kernel, "initrd": c.initrd, "bin/qlive": program}
	if err := os.Mkdir(p.file("bin"), 0o700); err != nil {
		return cannotMake(err)
	}
	// The daemon runs only what nobody but root can change, and the cache may lie in a user's folder: the way there must not lead
	// through it.
	for _, version := range c.path {
		real, err := filepath.EvalSymlinks(c.env.QEMU(version))
		if err != nil {
			return cannotMake(err)
		}
		text, err := script(real)
		switch {
		case err != nil:
			return cannotMake(err)
		case text == nil:
			links[filepath.Base(p.binary(version))] = real
		default: // the script that set-up wrote
			if err := os.WriteFile(p.binary(version), text, 0o755); err != nil {
				return cannotMake(err)
			}
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, p.file(name)); err != nil && !errors.Is(err, os.ErrExist) {
			return cannotMake(err)
		}
	}
	config := fmt.Sprintf("socket: %s\nmount: %s\nrun_dir: %s\nstate_dir: %s\ngroup: root\ncgroup: none\n", p.socket(), p.tree(), p.file("run"), p.file("state"))
	if err := os.WriteFile(p.config(), []byte(config), 0o600); err != nil {
		return cannotMake(err)
	}
	return nil
}

func cannotMake(err error) error {
	return vmstate.Errorf(vmstate.Host, "cannot set the scene: %w", err)
}

// script is the text of a script, nil for other programs.
func script(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	const longest = 64 << 10
	head := make([]byte, 2)
	if _, err := f.ReadAt(head, 0); err != nil || string(head) != "#!" || info.Size() > longest {
		return nil, nil // whatever it is, the daemon judges it
	}
	text := make([]byte, info.Size())
	_, err = f.ReadAt(text, 0)
	return text, err
}

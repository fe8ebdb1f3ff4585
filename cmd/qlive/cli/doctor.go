package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"qlive/daemon/survey"
	"qlive/vmstate"
)

// The levels of a finding.
const (
	levelOK   = "ok"
	levelWarn = "warn"
	levelFail = "fail"
)

// finding is one thing that doctor looked at.
type finding struct {
	Level  string `json:"level"` // ok, warn or fail
	Name   string `json:"name"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"` // what to do about it
}

func ok(name, format string, args ...any) finding {
	return finding{Level: levelOK, Name: name, Detail: fmt.Sprintf(format, args...)}
}

func warn(name, remedy, format string, args ...any) finding {
	return finding{Level: levelWarn, Name: name, Detail: fmt.Sprintf(format, args...), Remedy: remedy}
}

func fail(name, remedy, format string, args ...any) finding {
	return finding{Level: levelFail, Name: name, Detail: fmt.Sprintf(format, args...), Remedy: remedy}
}

func (a *app) doctorCmd() *cobra.Command {
	var dirs survey.Dirs
	c := &cobra.Command{
		Use: "doctor", Short: "Look for what is wrong with the host, the daemon and the VMs",
		Long: `Look at the host, the QEMUs in PATH, the daemon and its VMs, and say of each thing whether it is well and, if not, what to do.
While the daemon is dead the VMs are read from its run and state directories: which QEMUs live, how far a handoff had come,
and what a daemon that is started will do. Nothing is changed and no QEMU is asked. The exit code is 10 if something
fails; warnings do not count.`,
		Args: takes(),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
			defer cancel()
			findings := a.hostFindings()
			if err := a.findDirs(&dirs); err != nil {
				findings = append(findings, fail("config", remedyOf(err), "%v", err))
			}
			findings = append(findings, a.daemonFindings(ctx, dirs)...)
			findings = append(findings, a.binaryFindings(ctx)...)
			return a.printFindings(findings)
		},
	}
	c.Flags().StringVar(&dirs.Run, "run-dir", "", "the daemon's run directory, if it is not the configured one")
	c.Flags().StringVar(&dirs.State, "state-dir", "", "the daemon's state directory, if it is not the configured one")
	return c
}

func (a *app) printFindings(findings []finding) error {
	p := printed{value: items[finding]{findings}}
	code := vmstate.ExitOK
	for _, f := range findings {
		if f.Level == levelFail {
			code = vmstate.ExitDoctor
		}
		if f.Level != levelOK {
			p.names = append(p.names, f.Name)
		}
	}
	p.table = func(w *tabwriter.Writer) {
		for _, f := range findings {
			text := clean(f.Detail)
			if f.Remedy != "" {
				text += "  → " + clean(f.Remedy)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", f.Level, f.Name, text)
		}
	}
	if err := a.print(p); err != nil {
		return err
	}
	if code != vmstate.ExitOK {
		return &exitError{code: code}
	}
	return nil
}

// hostFindings look at what the kernel offers.
func (a *app) hostFindings() []finding {
	findings := []finding{a.kernel(), a.device("kvm", "/dev/kvm"), a.device("fuse", "/dev/fuse"), a.freeMemory()}
	findings = append(findings, a.hugepages()...)
	return append(findings, a.swap(), a.thp())
}

// read is the text of a file of the host, without the white space around it.
func (a *app) read(path string) (string, error) {
	text, err := os.ReadFile(filepath.Join("/", a.Root, path))
	return strings.TrimSpace(string(text)), err
}

// The oldest kernel that has all that qlive asks for: pidfds that can be waited for, and taken descriptors from.
const oldestMajor, oldestMinor = 5, 6

func (a *app) kernel() finding {
	release, err := a.read("/proc/sys/kernel/osrelease")
	var major, minor int
	if err == nil {
		_, err = fmt.Sscanf(release, "%d.%d", &major, &minor)
	}
	if err != nil {
		return warn("kernel", "", "cannot tell its version: %v", err)
	}
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		return fail("kernel", fmt.Sprintf("run %d.%d or newer", oldestMajor, oldestMinor), "Linux %s lacks pidfd_getfd", release)
	}
	return ok("kernel", "Linux %s", release)
}

func (a *app) device(name, path string) finding {
	f, err := os.OpenFile(filepath.Join("/", a.Root, path), os.O_RDWR, 0)
	if err == nil {
		f.Close()
		return ok(name, "%s opens", path)
	}
	switch {
	case name == "kvm" && os.IsNotExist(err):
		return warn(name, "modprobe kvm_intel or kvm_amd, if the CPU has it", "there is no %s: guests run in emulation, slowly", path)
	case os.IsNotExist(err):
		return fail(name, "modprobe fuse; or run the daemon with --mount none", "there is no %s: the tree cannot be mounted", path)
	case os.IsPermission(err) && os.Geteuid() != 0:
		return ok(name, "%s is there; only root can tell whether it opens", path)
	}
	return warn(name, "", "%v", err)
}

// meminfo is a row of /proc/meminfo, in bytes.
func (a *app) meminfo(row string) (uint64, error) {
	text, err := a.read("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		if name == row {
			var kib uint64
			_, err := fmt.Sscan(rest, &kib)
			return kib * 1024, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc/meminfo", row)
}

func (a *app) freeMemory() finding {
	free, err := a.meminfo("MemAvailable")
	if err != nil {
		return warn("memory", "", "cannot tell: %v", err)
	}
	const low = 256 << 20 // a second QEMU takes some tens of MiB beside the guest's memory
	if free < low {
		return warn("memory", "free some: a second QEMU needs up to 64 MiB of its own", "%s are available", size(free))
	}
	return ok("memory", "%s are available", size(free))
}

func (a *app) hugepages() []finding {
	const dir = "/sys/kernel/mm/hugepages"
	pools, err := os.ReadDir(filepath.Join("/", a.Root, dir))
	if err != nil {
		return []finding{ok("hugepages", "the kernel has none")}
	}
	var findings []finding
	for _, pool := range pools {
		var kib, total, free uint64
		if _, err := fmt.Sscanf(pool.Name(), "hugepages-%dkB", &kib); err != nil {
			continue
		}
		for file, n := range map[string]*uint64{"nr_hugepages": &total, "free_hugepages": &free} {
			text, err := a.read(filepath.Join(dir, pool.Name(), file))
			if err == nil {
				_, err = fmt.Sscan(text, n)
			}
			if err != nil {
				findings = append(findings, warn("hugepages", "", "cannot read %s: %v", pool.Name(), err))
			}
		}
		findings = append(findings, ok("hugepages", "%s: %d of %d free; a handoff needs none", size(kib*1024), free, total))
	}
	return findings
}

func (a *app) swap() finding {
	text, err := a.read("/proc/swaps")
	if err != nil || strings.Count(text, "\n") == 0 {
		return ok("swap", "none")
	}
	return ok("swap", "%d in use; guests' memory can be swapped out, but for huge pages", strings.Count(text, "\n"))
}

func (a *app) thp() finding {
	text, err := a.read("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
	if err != nil {
		return ok("thp", "the kernel has no transparent huge pages for shared memory")
	}
	_, rest, _ := strings.Cut(text, "[")
	setting, _, _ := strings.Cut(rest, "]")
	if setting == "never" || setting == "deny" {
		return finding{levelOK, "thp", "shmem_enabled is " + setting + ": guests without --hugepages run on small pages", "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"}
	}
	return ok("thp", "shmem_enabled is %s", setting)
}

package bench

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/internal/proc"
)

// Machine describes where a run was done.
type Machine struct {
	CPU         string            `json:"cpu"`
	Cores       int               `json:"cores"`
	MemoryBytes uint64            `json:"memory_bytes"`
	Kernel      string            `json:"kernel"`
	Virtual     bool              `json:"virtual"`               // it is itself a guest
	Accelerator string            `json:"accelerator,omitempty"` // of the guests; empty if there are none
	QEMU        map[string]string `json:"qemu"`                  // what each version says of itself
	LoadBefore  string            `json:"load_before"`
	LoadAfter   string            `json:"load_after"`
}

// Describe looks at the machine, and asks the QEMUs of e what they are.
func Describe(ctx context.Context, e env.Env) (Machine, error) {
	m := Machine{Cores: runtime.NumCPU(), Accelerator: "tcg", QEMU: map[string]string{}, LoadBefore: LoadAverage()}
	info, err := proc.ReadMeminfo()
	if err != nil {
		return m, err
	}
	m.MemoryBytes = info.Total
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, fmt.Errorf("cannot tell the kernel: %w", err)
	}
	m.Kernel = unix.ByteSliceToString(name.Release[:])
	cpus, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return m, fmt.Errorf("cannot tell the CPU: %w", err)
	}
	defer cpus.Close()
	for lines := bufio.NewScanner(cpus); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch strings.TrimSpace(key) {
		case "model name":
			m.CPU = strings.TrimSpace(value)
		case "flags":
			m.Virtual = strings.Contains(value, " hypervisor")
		}
	}
	for _, v := range e.Found() {
		text, err := exec.CommandContext(ctx, e.QEMU(v), "--version").Output()
		if err != nil {
			return m, fmt.Errorf("cannot run QEMU %s: %w", v, err)
		}
		m.QEMU[v], _, _ = strings.Cut(string(text), "\n")
	}
	return m, nil
}

// LoadAverage is that of the last 1, 5 and 15 minutes.
func LoadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

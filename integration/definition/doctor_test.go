package definition_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/integration/lab"
)

// tellAll: doctor tells of a guest whose daemon has been killed, and of a file that has been spoilt.
func tellAll(t *testing.T, program string) {
	d := lab.NewDaemon(t, lab.DaemonOptions{NoTree: true, Program: program})
	vm := run(t, d.Lab, bare(d.Lab, "vm1"))
	d.Signal(unix.SIGSTOP) // a daemon that hangs is as good as none
	if text := doctor(t, d, 10); !strings.Contains(text, fmt.Sprintf("it is in process %d", vm.PID)) || !strings.Contains(text, "the daemon does not say what it is") {
		t.Errorf("doctor says:\n%s", text)
	}
	d.Kill()
	says := func(code int) string { return doctor(t, d, code) }
	if text := says(10); !strings.Contains(text, fmt.Sprintf("it is in process %d (QEMU 7.2.22", vm.PID)) ||
		!strings.Contains(text, "a daemon that is started takes it up again") || !strings.Contains(text, "nobody answers on "+d.Socket) {
		t.Errorf("doctor says:\n%s", text)
	}
	kill(t, vm)
	d.Eventually("the QEMU is gone", func() error {
		if pids := d.QEMUs(t); len(pids) > 0 {
			return fmt.Errorf("processes %v live", pids)
		}
		return nil
	})
	if text := says(10); !strings.Contains(text, fmt.Sprintf("its QEMU, process %d, was killed or has crashed; a daemon that is started shows it as failed", vm.PID)) {
		t.Errorf("doctor says:\n%s", text)
	}
	path := filepath.Join(store(d.Lab), "vm2.json")
	must(t, os.WriteFile(path, []byte("{\n  \"format\": \"qlive-definition\",\n  \"level\": 2,\n  \"nmae\": \"vm2\"\n}\n"), 0o600))
	found := struct {
		Items []struct{ Level, Name, Detail, Remedy string }
	}{}
	must(t, json.Unmarshal([]byte(doctor(t, d, 10, "-o", "json")), &found))
	for _, f := range found.Items {
		if f.Name == "vm vm2" && f.Level == "fail" && strings.Contains(f.Detail, path+": line 4: there is no member \"nmae\"") && strings.Contains(f.Remedy, "docs/formats.md") {
			return
		}
	}
	t.Errorf("doctor finds %+v", found.Items)
}

func doctor(t *testing.T, d *lab.Daemon, code int, args ...string) string {
	t.Helper()
	var out, stderr bytes.Buffer
	cmd := exec.Command(d.Program, append([]string{"doctor", "--socket", d.Socket, "--run-dir", d.RunDir(), "--state-dir", filepath.Join(d.Dir, "state")}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != code {
		t.Fatalf("doctor ends with %v, want %d\n%s%s", err, code, out.String(), stderr.String())
	}
	return out.String()
}

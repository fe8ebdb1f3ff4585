package faces_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// What describes the daemon itself is there, and is true.
func TestSystem(t *testing.T) {
	s := newScene(t)
	s.vm.HandOver(env.Newest, "")
	if err := s.points.Arm("flip.load.before", "1*error(a fault that was made)"); err != nil {
		t.Fatal(err)
	}
	s.vm.Migrate(vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Installed)})

	for _, path := range []string{"/readyz", "/v1/readyz", "/healthz"} {
		if h := into[vmstate.Health](t, s.ask(t, "GET", path, ""), http.StatusOK); !h.Ready || h.Degraded {
			t.Errorf("%s: %+v", path, h)
		}
	}
	if v := into[struct{ Version, Go, API string }](t, s.ask(t, "GET", "/version", ""), http.StatusOK); v.Version != "test" || v.API != "/v1" || v.Go == "" {
		t.Errorf("the version is %+v", v)
	}
	golden, err := os.ReadFile("../../docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if a := s.ask(t, "GET", "/openapi.json", ""); a.StatusCode != http.StatusOK || !bytes.Equal(a.body, golden) {
		t.Errorf("/openapi.json (%s, %d bytes) is not docs/openapi.json (%d bytes)", a.Status, len(a.body), len(golden))
	}
	for path, kind := range map[string]string{"/": "text/html", "/docs": "text/html", "/status.js": "text/javascript", "/style.css": "text/css"} {
		if a := s.ask(t, "GET", path, ""); a.StatusCode != http.StatusOK || !strings.HasPrefix(a.Header.Get("Content-Type"), kind) || len(a.body) == 0 {
			t.Errorf("%s: %s, %s, %d bytes", path, a.Status, a.Header.Get("Content-Type"), len(a.body))
		}
	}

	wants := []string{`qlive_vm_status{status="running",vm="vm1"} 1`, `qlive_migrations_total{result="completed"} 1`, `qlive_migrations_total{result="rolled_back"} 1`,
		`qlive_migration_pause_seconds_count 1`, `qlive_migration_phase_seconds_count{phase="switching"} 1`, `qlive_vm_ram_bytes{vm="vm1"} 2.68435456e+08`}
	s.Eventually("the metrics count what has ended", func() error { // a moment after it is told
		a := s.ask(t, "GET", "/metrics", "")
		faults, err := promlint.New(bytes.NewReader(a.body)).Lint()
		if err != nil || len(faults) > 0 || a.StatusCode != http.StatusOK {
			t.Errorf("metrics: %s, %v, %+v", a.Status, err, faults)
		}
		for _, want := range wants {
			if !strings.Contains(string(a.body), want+"\n") {
				return fmt.Errorf("there is no %s in\n%s", want, a.body)
			}
		}
		return nil
	})
}

// Reading never waits for QEMU: with both QEMUs of a handoff stopped dead everything is answered as before, and it goes on when they do.
func TestReadersDoNotWaitForQEMU(t *testing.T) {
	s := newScene(t)
	m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), Hold: true})
	m = s.reach(t, m.ID, vmstate.Prepared)
	pids := []int{m.From.PID, m.To.PID}
	signal := func(sig unix.Signal) {
		for _, pid := range pids {
			if err := unix.Kill(pid, sig); err != nil {
				t.Errorf("signal %v to %d: %v", sig, pid, err)
			}
		}
	}
	signal(unix.SIGSTOP)
	proceed := sync.OnceFunc(func() { signal(unix.SIGCONT) })
	defer proceed() // whatever becomes of the test
	for _, pid := range pids {
		s.Eventually("the QEMUs stand", func() error {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err == nil && !strings.Contains(string(stat), ") T ") {
				err = fmt.Errorf("%s", stat)
			}
			return err
		})
	}
	for range 20 {
		quick(t, "the tree", func() {
			if got := s.Cat("vm1", "status") + s.Cat("vm1", "migration", "phase"); got != "runningprepared" {
				t.Errorf("the tree says %q", got)
			}
			s.Cat("vm1", "state.json")
			s.Cat("vm1", "regions", "pc.ram", "state")
			s.Cat("vm1", "console")
		})
		quick(t, "REST", func() {
			for _, path := range []string{"/vms", "/vms/vm1", "/migrations/" + m.ID, "/metrics", "/readyz", "/vms/vm1/console"} {
				if a := s.ask(t, "GET", path, ""); a.StatusCode != http.StatusOK {
					t.Errorf("%s: %s", path, a.Status)
				}
			}
		})
	}
	proceed()
	if err := s.ctl("continue"); err != nil {
		t.Fatal(err)
	}
	s.reach(t, m.ID, vmstate.Completed)
	s.vm.CheckMemory()
}

// The program itself is ready within a second of its start, and ends when told to, leaving neither socket nor mount, but the guest.
func TestStartToReady(t *testing.T) {
	e, err := env.Locate()
	if err != nil {
		t.Fatal(err)
	}
	program := lab.BuildProgram(t, "test")
	best := time.Hour
	for range 4 {
		best = min(best, startToReady(t, program, e))
	}
	t.Logf("from the program's start to ready: %v", best)
	if best > time.Second {
		t.Errorf("the quickest start took %v", best)
	}
}

// awaitReady asks a daemon whether it is ready until it is, has ended, or takes too long.
func awaitReady(client *http.Client, ended <-chan error) error {
	deadline := time.After(lab.Limit)
	for {
		resp, err := client.Get("http://qlive/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		select {
		case why := <-ended:
			return fmt.Errorf("it has ended: %v", why)
		case <-deadline:
			return err
		case <-time.After(time.Millisecond):
		}
	}
}

// startToReady starts a daemon and ends it, and says how long it took until it was ready.
func startToReady(t *testing.T, program string, e env.Env) time.Duration {
	t.Helper()
	dir, err := os.MkdirTemp("", "qlive-ready-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket, mount := filepath.Join(dir, "sock"), filepath.Join(dir, "mnt")
	var stderr bytes.Buffer
	cmd := exec.Command(program, "daemon", "--socket", socket, "--mount", mount, "--run-dir", filepath.Join(dir, "run"), "--state-dir", filepath.Join(dir, "state"))
	cmd.Stderr = &stderr
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	client := &http.Client{Transport: transport}
	defer transport.CloseIdleConnections()
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := awaitReady(client, ended); err != nil {
		_ = cmd.Process.Kill()
		t.Fatalf("the daemon is not ready: %v: %s", err, &stderr)
	}
	took := time.Since(began)
	if text, err := os.ReadFile(filepath.Join(mount, "health")); err != nil || !strings.HasPrefix(string(text), "ok") {
		t.Errorf("the tree's health is %q, %v", text, err)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the daemon ends with %v: %s", err, &stderr)
		}
	case <-time.After(lab.Limit):
		_ = cmd.Process.Kill()
		t.Errorf("the daemon has not ended: %s", &stderr)
	}
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if slices.Contains(mounts(t), mount) {
		t.Error("the mount is left")
	}
	return took
}

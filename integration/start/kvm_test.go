package start_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/guest/bootsector"
	"qlive/integration/lab"
	"qlive/restapi/client"
	"qlive/vmstate"
)

// kvmLimit bounds the waits under KVM. Where KVM itself is emulated a boot sector may take a minute to come up.
const kvmLimit = 3 * time.Minute

// A guest under KVM, small enough for a KVM that runs no Linux, goes through all versions by all ways and loses no count.
func TestKVM(t *testing.T) {
	if err := env.KVM(); err != nil {
		t.Skipf("this host has no KVM: %v", err)
	}
	l := lab.New(t, lab.Options{NoTree: true})
	image := filepath.Join(l.Dir, "boot.img")
	if err := bootsector.Write(image); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"-accel", "kvm", "-machine", "pc-q35-7.2", "-m", "64", "-nodefaults", "-display", "none", "-serial", "stdio"}, bootsector.Args(image)...)
	vm := begin(t, l, vmstate.VMSpec{Args: args})
	count := counting(t, l, vm.Name)
	began := time.Now()
	count(100)
	t.Logf("it counts after %v", time.Since(began).Round(time.Millisecond))
	for _, way := range vmstate.Ways() {
		for _, version := range tour() {
			m := handOver(t, l, vmstate.MigrationSpec{VM: vm.Name, Binary: l.Env.QEMU(version), Way: way, MaxPauseMS: 60000, TimeoutS: 600})
			r := count(300)
			if err := r.Check(); err != nil || r.Boots != 1 {
				t.Errorf("after %s to %s: %+v: %v", way, version, r, err)
			}
			t.Logf("%s, %s → %s: pause %d µs, by QEMU %d µs, longest gap %v", way, m.From.Version, m.To.Version, *m.PauseUS, *m.QEMUPause, r.MaxGap)
		}
	}
}

// counting follows the console of a boot sector. What it returns waits until there are so many counts more.
func counting(t *testing.T, l *lab.Lab, name string) func(more uint64) bootsector.Report {
	t.Helper()
	stream, err := l.Client.Console(t.Context(), name, client.Tail{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var counter bootsector.Counter
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := stream.Read(buf)
			mu.Lock()
			counter.Feed(buf[:n], time.Now())
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { stream.Close(); <-done })
	return func(more uint64) (r bootsector.Report) {
		t.Helper()
		mu.Lock()
		goal := counter.Report().Lines + more
		mu.Unlock()
		await(t, fmt.Sprintf("the guest counts to %d", goal), kvmLimit, func() error {
			mu.Lock()
			defer mu.Unlock()
			if r = counter.Report(); r.Lines < goal {
				return fmt.Errorf("it is at %d", r.Lines)
			}
			return nil
		})
		return r
	}
}

package definition_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/restapi/client"
	"qlive/vmstate"
)

// A guest that powers off leaves its definition, and is started again in the QEMU that it was in last; with rm it is gone for good.
func TestPowerOffAndStart(t *testing.T) {
	l := lab.New(t, lab.Options{})
	vm := l.Boot(lab.Spec{Guest: small()})
	if d := read(t, l, "vm1"); d.Spec.Binary != l.Env.QEMU(env.Installed) || d.BootID == "" {
		t.Errorf("%+v", d)
	}
	vm.HandOver(env.Newest, "")
	l.Eventually("the definition names the QEMU that has the guest", func() error {
		if got := read(t, l, "vm1").Spec.Binary; got != l.Env.QEMU(env.Newest) {
			return errors.New(got)
		}
		return nil
	})
	if _, err := l.Client.StartStoppedVM(t.Context(), "vm1"); vmstate.KindOf(err) != vmstate.Conflict {
		t.Errorf("a VM that runs is started: %v", err)
	}
	vm.Type("poweroff")
	until(t, l, "vm1", "has stopped", is(vmstate.Stopped))
	again, err := l.Client.StartStoppedVM(t.Context(), "vm1")
	must(t, err)
	if again.Status != vmstate.Running || !strings.HasPrefix(again.QEMU.Version, env.Newest) || again.Generation != 0 || again.Restarts != 0 {
		t.Errorf("%+v", again)
	}
	console, err := l.Client.Console(t.Context(), "vm1", client.Tail{Follow: true})
	must(t, err)
	defer console.Close()
	if text := follow(t, console, "GUEST-UP"); !strings.Contains(text, "BYE how=poweroff") { // of the QEMU before
		t.Errorf("the console has lost what was said last before:\n%s", text)
	}
	must(t, l.Client.RemoveVM(t.Context(), "vm1", true))
	if left, err := os.ReadDir(store(l)); err != nil || len(left) > 0 {
		t.Errorf("%v are left, %v", left, err)
	}
	for _, dir := range []string{"vms/vm1", "before/vm1"} {
		if _, err := os.Stat(filepath.Join(l.RunDir(), dir)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
	if pids := l.QEMUs(t); len(pids) > 0 {
		t.Errorf("processes %v are left", pids)
	}
}

// follow reads a console until there is a word on it, and fails the test if it ends before.
func follow(t *testing.T, console io.ReadCloser, word string) string {
	t.Helper()
	late := time.AfterFunc(lab.Limit, func() { console.Close() })
	defer late.Stop()
	var text strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := console.Read(buf)
		text.Write(buf[:n])
		if strings.Contains(text.String(), word) {
			return text.String()
		}
		if err != nil {
			t.Fatalf("the console ends without %q: %v\n%s", word, err, text.String())
		}
	}
}

// A VM with on-failure is started anew when its QEMU dies, a little later each time; one without is left as it is.
func TestRestartOnFailure(t *testing.T) {
	l := lab.New(t, lab.Options{})
	spec := bare(l, "vm1")
	spec.Restart = vmstate.RestartOnFailure
	first := run(t, l, spec)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan string, 1)
	go func() { told <- waitedAndRan(l.Client.Events(ctx, client.Watch{VM: "vm1"})) }()
	other := run(t, l, bare(l, "vm2"))
	kill(t, first)
	kill(t, other)
	waiting := until(t, l, "vm1", "is to be started anew", is(vmstate.Starting))
	if waiting.RestartAt == nil || waiting.PID != 0 || waiting.Error == nil || !strings.Contains(waiting.Error.Detail, "signal 9") ||
		!strings.Contains(waiting.Error.Remedy, "started anew at") {
		t.Errorf("%+v, error %+v", waiting, waiting.Error)
	}
	second := until(t, l, "vm1", "runs again", is(vmstate.Running))
	if second.PID == first.PID || second.Restarts != 1 || second.RestartAt != nil || second.Error != nil ||
		len(second.Warnings) == 0 || !strings.Contains(second.Warnings[len(second.Warnings)-1], "signal 9") {
		t.Errorf("%+v", second)
	}
	if wrong := <-told; wrong != "" {
		t.Errorf("the events: %s", wrong)
	}
	if got := l.Cat("vm1", "restart") + " " + l.Cat("vm1", "restarts") + " " + l.Cat("vm1", "autostart"); got != "on-failure 1 0" {
		t.Errorf("the tree says %s", got)
	}
	if vm := until(t, l, "vm2", "has failed", is(vmstate.Broken)); vm.RestartAt != nil || !strings.Contains(vm.Error.Remedy, "qlive start vm2") {
		t.Errorf("%+v, error %+v", vm, vm.Error)
	}

	// Who is faster than the restart has his way.
	kill(t, second)
	until(t, l, "vm1", "is to be started anew", is(vmstate.Starting))
	third, err := l.Client.StartStoppedVM(t.Context(), "vm1")
	must(t, err)
	if third.Status != vmstate.Running || third.Restarts != 0 {
		t.Errorf("%+v", third)
	}
	kill(t, third)
	until(t, l, "vm1", "is to be started anew", is(vmstate.Starting))
	must(t, l.Client.RemoveVM(t.Context(), "vm1", true))
	if _, err := l.Client.VM(t.Context(), "vm1"); vmstate.KindOf(err) != vmstate.NotFound {
		t.Errorf("%v", err)
	}
	if pids := l.QEMUs(t); len(pids) > 0 {
		t.Errorf("processes %v live", pids)
	}
}

// waitedAndRan follows the events of a VM until it has been started anew, and says what they do not tell of that.
func waitedAndRan(events iter.Seq2[vmstate.Event, error]) string {
	waited := false
	for e, err := range events {
		if err != nil {
			return err.Error()
		}
		vm, ok := e.Data.(vmstate.VM)
		switch {
		case !ok:
		case vm.RestartAt != nil && vm.Status == vmstate.Starting && vm.Error != nil:
			waited = true
		case vm.Restarts == 1 && vm.Status == vmstate.Running && waited:
			return ""
		case vm.Restarts == 1 && vm.Status == vmstate.Running:
			return "it was started anew, and nobody was told that it would be"
		}
	}
	return "they end"
}

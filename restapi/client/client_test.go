package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"qlive/restapi"
	"qlive/restapi/client"
	"qlive/restapi/restapitest"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves svc on socket until stop is called or the test ends.
func serve(t *testing.T, svc restapi.Service, socket string) (stop func()) {
	t.Helper()
	l, err := restapi.Listen(socket, vmstate.Trust{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- restapi.Server{Handler: restapi.New(svc, restapi.Options{Version: "test", WriteTimeout: time.Second, Now: restapitest.Now})}.Serve(ctx, l)
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// start serves a service that has vm1, and gives a client for it.
func start(t *testing.T) (*restapitest.Service, *client.Client) {
	t.Helper()
	dir, err := os.MkdirTemp("", "qlive")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	svc := restapitest.New(restapitest.VM("vm1"))
	t.Cleanup(svc.Close)
	socket := filepath.Join(dir, "s")
	serve(t, svc, socket)
	c := client.New(socket)
	t.Cleanup(c.Close)
	return svc, c
}

// must is for answers that cannot fail.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestGeneratedFromTheDocument(t *testing.T) {
	made, config := filepath.Join(t.TempDir(), "made.go"), filepath.Join(t.TempDir(), "config.yaml")
	text := must[[]byte](t)(os.ReadFile("wire/oapi-codegen.yaml"))
	moved := strings.Replace(string(text), "output: wire.gen.go", "output: "+made, 1)
	if err := os.WriteFile(config, []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "tool", "oapi-codegen", "-config", config, "../../../docs/openapi.json")
	cmd.Dir = "wire"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("oapi-codegen: %v\n%s", err, out)
	}
	want := must[[]byte](t)(os.ReadFile(made))
	got := must[[]byte](t)(os.ReadFile("wire/wire.gen.go"))
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("wire.gen.go is not what docs/openapi.json makes; run `go generate ./restapi/client/wire` (-should +is):\n%s", diff)
	}
}

func TestEveryCall(t *testing.T) {
	svc, c := start(t)
	ctx := t.Context()
	if v := must[client.Version](t)(c.Version(ctx)); v.Version != "test" {
		t.Errorf("version %+v", v)
	}
	if h := must[vmstate.Health](t)(c.Health(ctx)); !h.Ready {
		t.Errorf("health %+v", h)
	}
	if err := c.Ready(ctx); err != nil {
		t.Error(err)
	}
	vm2 := must[vmstate.VM](t)(c.StartVM(ctx, vmstate.VMSpec{Name: "vm2", Binary: "/q", Args: []string{"-m", "1"}}))
	vms := must[[]vmstate.VM](t)(c.VMs(ctx))
	if len(vms) != 2 || cmp.Diff(vms[1], vm2) != "" {
		t.Errorf("VMs %+v", vms)
	}
	want, _ := svc.Snapshot().VM("vm1")
	if diff := cmp.Diff(want, must[vmstate.VM](t)(c.VM(ctx, "vm1"))); diff != "" {
		t.Errorf("a VM is not the same at the other end (-sent +got):\n%s", diff)
	}
	for _, act := range []struct {
		do   func(context.Context, string) (vmstate.VM, error)
		want vmstate.Status
	}{{c.Pause, vmstate.Paused}, {c.Resume, vmstate.Running}, {c.Reset, vmstate.Running}, {c.Powerdown, vmstate.Stopped}, {c.StartStoppedVM, vmstate.Running}} {
		if vm := must[vmstate.VM](t)(act.do(ctx, "vm1")); vm.Status != act.want {
			t.Errorf("status %s, want %s", vm.Status, act.want)
		}
	}
	failed := restapitest.VM("vm3")
	failed.Status = vmstate.Broken
	svc.SetVM(failed)
	if d := must[vmstate.Decision](t)(c.Undecided(ctx, "vm3")); d.VM != "vm3" || len(d.Choices) != 3 || d.Source.Seen != "stands" {
		t.Errorf("decision %+v", d)
	}
	if _, err := c.Resolve(ctx, "vm3", "target"); vmstate.KindOf(err) != vmstate.Conflict {
		t.Errorf("what cannot be done: %v", err)
	}
	if vm := must[vmstate.VM](t)(c.Resolve(ctx, "vm3", "discard")); vm.Status != vmstate.Stopped {
		t.Errorf("discarded, and %s", vm.Status)
	}
	if err := c.Type(ctx, "vm1", []byte("ls\r")); err != nil || svc.Typed() != "ls\r" {
		t.Errorf("typed %q, %v", svc.Typed(), err)
	}
	for _, read := range []func(context.Context, string, client.Tail) (io.ReadCloser, error){c.Console, c.Log} {
		stream := must[io.ReadCloser](t)(read(ctx, "vm1", client.Tail{}))
		if text := must[[]byte](t)(io.ReadAll(stream)); len(text) != 0 {
			t.Errorf("read %q", text)
		}
		stream.Close()
	}
	m := must[vmstate.Migration](t)(c.Migrate(ctx, vmstate.MigrationSpec{VM: "vm1", Binary: "/b"}, "key"))
	if again := must[vmstate.Migration](t)(c.Migrate(ctx, vmstate.MigrationSpec{VM: "vm1", Binary: "/b"}, "key")); again.ID != m.ID {
		t.Errorf("the key gave %s, then %s", m.ID, again.ID)
	}
	if got := must[vmstate.Migration](t)(c.Migration(ctx, m.ID, time.Millisecond)); cmp.Diff(m, got) != "" {
		t.Errorf("migration %+v", got)
	}
	svc.Step(m.ID, vmstate.Preparing)
	svc.Step(m.ID, vmstate.Prepared)
	must[vmstate.Migration](t)(c.Continue(ctx, m.ID))
	if got := must[vmstate.Migration](t)(c.Cancel(ctx, m.ID)); got.Phase != vmstate.Aborted {
		t.Errorf("phase %s", got.Phase)
	}
	if text := must[[]byte](t)(func() ([]byte, error) { r, err := c.Trace(ctx, m.ID); return r, err }()); string(text) != `{"traceEvents":[]}` {
		t.Errorf("trace %s", text)
	}
	must[vmstate.Migration](t)(c.Rollback(ctx, "vm2"))
	if all, one := must[[]vmstate.Migration](t)(c.Migrations(ctx, "")), must[[]vmstate.Migration](t)(c.Migrations(ctx, "vm2")); len(all) != 2 || len(one) != 1 {
		t.Errorf("%d and %d migrations", len(all), len(one))
	}
	if err := c.RemoveVM(ctx, "vm2", true); err != nil {
		t.Error(err)
	}
	if err := c.RemoveVM(ctx, "vm1", false); err != nil {
		t.Error(err)
	}
}

func TestListsLongerThanAPage(t *testing.T) {
	svc, c := start(t)
	svc.Change(vmstate.Event{Type: vmstate.EventHealth}, func(n *vmstate.Snapshot) {
		n.VMs = nil
		for i := range 2500 {
			n.VMs = append(n.VMs, vmstate.VM{Name: fmt.Sprintf("vm%04d", i)})
			n.Migrations = append(n.Migrations, vmstate.Migration{ID: fmt.Sprintf("mig-%d", 9999-i), VM: "vm1"})
		}
	})
	if vms := must[[]vmstate.VM](t)(c.VMs(t.Context())); len(vms) != 2500 || vms[2499].Name != "vm2499" {
		t.Errorf("%d VMs", len(vms))
	}
	if ms := must[[]vmstate.Migration](t)(c.Migrations(t.Context(), "vm1")); len(ms) != 2500 {
		t.Errorf("%d migrations", len(ms))
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	svc, c := start(t)
	for _, row := range vmstate.Kinds() {
		sent := &vmstate.Error{Kind: row.Kind, Step: "load", VM: "vm1", Migration: "mig-1", Detail: "cannot do it", Remedy: "do another thing", Words: []string{"no"}}
		svc.Refuse(sent)
		_, err := c.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1"}, client.NewKey())
		got, ok := errors.AsType[*vmstate.Error](err)
		if !ok {
			t.Fatalf("%s: %v", row.Kind, err)
		}
		refusal, ok := errors.AsType[*client.Refusal](err)
		if !ok || cmp.Diff(*vmstate.ProblemOf(sent), refusal.Problem) != "" {
			t.Errorf("%s: document %+v", row.Kind, refusal)
		}
		got.Err = nil
		if diff := cmp.Diff(sent, got); diff != "" {
			t.Errorf("%s (-sent +got):\n%s", row.Kind, diff)
		}
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	kind := func(socket string) vmstate.Kind {
		t.Helper()
		c := client.New(socket)
		defer c.Close()
		_, err := c.VMs(t.Context())
		return vmstate.KindOf(err)
	}
	if got := kind(filepath.Join(dir, "none")); got != vmstate.Unavailable {
		t.Errorf("no socket: %s", got)
	}
	dead := filepath.Join(dir, "dead")
	l := must[net.Listener](t)(net.Listen("unix", dead))
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if got := kind(dead); got != vmstate.Unavailable {
		t.Errorf("a dead socket: %s", got)
	}
	other := filepath.Join(dir, "other")
	l = must[net.Listener](t)(net.Listen("unix", other))
	server := &http.Server{Handler: http.NotFoundHandler()}
	go server.Serve(l) //nolint:errcheck // closed below
	defer server.Close()
	if got := kind(other); got != vmstate.Internal {
		t.Errorf("another server: %s", got)
	}
	c := client.New(other)
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.VMs(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestEventsAcrossARestart(t *testing.T) {
	dir := must[string](t)(os.MkdirTemp("", "qlive"))
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	svc := restapitest.New(restapitest.VM("vm1"))
	defer svc.Close()
	stop := serve(t, svc, socket)
	c := client.New(socket)
	defer c.Close()

	lost := make(chan error, 100)
	var seen []uint64
	for e, err := range c.Events(t.Context(), client.Watch{Lost: func(err error) error { lost <- err; return nil }}) {
		if err != nil {
			t.Fatal(err)
		}
		if len(seen) == 0 {
			state, ok := e.Data.(vmstate.State)
			if !ok || e.Type != vmstate.EventReset || len(state.VMs) != 1 {
				t.Fatalf("first event %+v", e)
			}
		} else if _, ok := e.Data.(vmstate.VM); !ok || e.Type != vmstate.EventVM {
			t.Fatalf("event %+v", e)
		}
		seen = append(seen, e.Seq)
		switch len(seen) {
		case 1:
			svc.SetVM(restapitest.VM("vm1"))
		case 2: // what happens while nobody serves is not missed
			stop()
			svc.SetVM(restapitest.VM("vm1"))
			svc.SetVM(restapitest.VM("vm1"))
			stop = serve(t, svc, socket)
		}
		if len(seen) == 4 {
			break
		}
	}
	if diff := cmp.Diff([]uint64{1, 2, 3, 4}, seen); diff != "" {
		t.Error(diff)
	}
	if len(lost) == 0 {
		t.Error("nobody was told that the stream broke")
	}
}

func TestEventsEndWithTheContext(t *testing.T) {
	_, c := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for _, err := range c.Events(ctx, client.Watch{}) {
		if n++; n == 1 {
			cancel()
			continue
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	}
	if n != 2 {
		t.Errorf("%d events", n)
	}
}

func TestEventsRefused(t *testing.T) {
	c := client.New(filepath.Join(t.TempDir(), "none"))
	for _, err := range c.Events(t.Context(), client.Watch{}) {
		if vmstate.KindOf(err) != vmstate.Unavailable {
			t.Errorf("got %v", err)
		}
	}
}

// A listener that falls behind is cut off by the daemon, comes back, and sees the state as it is.
func TestEventsForASlowListener(t *testing.T) {
	svc, c := start(t)
	n, resets := 0, 0
	for e, err := range c.Events(t.Context(), client.Watch{Lost: func(error) error { return nil }}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 1 {
			for range 20_000 {
				svc.SetVM(restapitest.VM("vm1"))
			}
		}
		if e.Type == vmstate.EventReset {
			resets++
		}
		if e.Seq == 20_001 {
			break
		}
	}
	if resets < 2 {
		t.Errorf("%d resets in %d events: the listener was never cut off, the test shows nothing", resets, n)
	}
}

func TestFollow(t *testing.T) {
	svc, c := start(t)
	svc.Run(time.Millisecond, restapitest.Full()...)
	m := must[vmstate.Migration](t)(c.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1"}, client.NewKey()))
	var last vmstate.Migration
	for now, err := range c.Follow(t.Context(), m.ID) {
		if err != nil {
			t.Fatal(err)
		}
		if now.ID != m.ID {
			t.Errorf("migration %s", now.ID)
		}
		last = now
	}
	if last.Phase != vmstate.Completed {
		t.Errorf("ended %s", last.Phase)
	}
	for _, err := range c.Follow(t.Context(), "mig-99") {
		if vmstate.KindOf(err) != vmstate.NotFound {
			t.Errorf("got %v", err)
		}
	}
}

func TestFollowRegions(t *testing.T) {
	svc, c := start(t)
	m := must[vmstate.Migration](t)(c.Migrate(t.Context(), vmstate.MigrationSpec{VM: "vm1"}, client.NewKey()))
	n := 0
	for now, err := range c.Follow(t.Context(), m.ID) {
		if err != nil {
			t.Fatal(err)
		}
		switch n++; n {
		case 1:
			r := now.Regions[0].Advance(vmstate.Mapped)
			svc.Change(vmstate.Event{Type: vmstate.EventRegion, VM: "vm1", Migration: m.ID, Data: r}, func(*vmstate.Snapshot) {})
		case 2:
			if now.Regions[0].State != vmstate.Mapped {
				t.Errorf("region %+v", now.Regions[0])
			}
			svc.Step(m.ID, vmstate.Aborted)
		}
	}
	if n != 3 {
		t.Errorf("%d changes", n)
	}
}

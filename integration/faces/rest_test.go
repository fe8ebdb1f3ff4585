package faces_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// curl runs curl on the daemon's socket. The answer's status is on the last line of what it prints.
func (s *scene) curl(t *testing.T, args ...string) (out string, exit int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "curl", append([]string{"-sS", "--unix-socket", s.Socket, "-w", "\n%{http_code}"}, args...)...)
	text, err := cmd.Output()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// The owner's line works as it stands: curl -d, without a content type, at the root and under /v1.
func TestCurl(t *testing.T) {
	s := newScene(t)
	order := func(version string) string { return fmt.Sprintf(`{"vm":"vm1","binary":%q}`, s.Env.QEMU(version)) }
	out, exit := s.curl(t, "-i", "-d", order(env.Newest), "http://qlive/migrations")
	head, rest, _ := strings.Cut(strings.ReplaceAll(out, "\r\n", "\n"), "\n\n")
	var m vmstate.Migration
	if err := json.NewDecoder(strings.NewReader(rest)).Decode(&m); err != nil || exit != 0 || !strings.HasPrefix(head, "HTTP/1.1 202 Accepted") {
		t.Fatalf("%v, exit %d: %s", err, exit, out)
	}
	if !strings.Contains(head, "\nLocation: /migrations/"+m.ID+"\n") && !strings.HasSuffix(head, "\nLocation: /migrations/"+m.ID) || m.VM != "vm1" || m.Phase.Ended() {
		t.Errorf("the answer is %s\n%+v", head, m)
	}
	out, _ = s.curl(t, "http://qlive/migrations/"+m.ID+"?wait=60s")
	if !strings.HasSuffix(out, "\n200") || !strings.Contains(out, `"phase":"completed"`) {
		t.Errorf("waiting for it: %s", out)
	}
	if out, exit = s.curl(t, "-f", "-d", order(env.Installed), "http://qlive/v1/migrations?wait=60s"); exit != 0 || !strings.HasSuffix(out, "\n200") || !strings.Contains(out, `"phase":"completed"`) {
		t.Errorf("with wait: exit %d, %s", exit, out)
	}
	if out, _ = s.curl(t, "-i", "-d", order(env.Newest), "http://qlive/v1/migrations"); !strings.Contains(out, "Location: /v1/migrations/mig-") {
		t.Errorf("under /v1 the location is not: %s", out)
	}
	s.idle()
	if out, _ = s.curl(t, "-X", "POST", "http://qlive/vms/vm1/rollback?wait=60s"); !strings.HasSuffix(out, "\n200") || !strings.Contains(out, env.Installed) {
		t.Errorf("rolling back: %s", out)
	}
	body, err := json.Marshal(vmstate.VMSpec{Name: "vm2", Binary: s.Env.QEMU(env.Installed), Args: s.Args(lab.Spec{Bare: true, MiB: 256})})
	if err != nil {
		t.Fatal(err)
	}
	if out, _ = s.curl(t, "-i", "-d", string(body), "http://qlive/vms"); !strings.HasSuffix(out, "\n201") || !strings.Contains(out, "Location: /vms/vm2") {
		t.Errorf("starting a VM: %s", out)
	}
	if out, _ = s.curl(t, "-X", "DELETE", "http://qlive/vms/vm2?force=true"); !strings.HasSuffix(out, "\n204") {
		t.Errorf("removing it: %s", out)
	}
	s.vm.CheckMemory()
}

// idle waits until no handoff is under way.
func (s *scene) idle() {
	s.Eventually("the handoff is over", func() error {
		if phase := vmstate.Phase(s.Cat("vm1", "migration", "phase")); !phase.Ended() {
			return fmt.Errorf("it is %s", phase)
		}
		return nil
	})
}

// Who waits for a handoff that ends otherwise gets a 409 that carries it, so that curl -f tells; who waits for one that is held, a 202.
func TestWait(t *testing.T) {
	s := newScene(t)
	if err := s.points.Arm("flip.load.before", "1*error(a fault that was made)"); err != nil {
		t.Fatal(err)
	}
	order := fmt.Sprintf(`{"vm":"vm1","binary":%q}`, s.Env.QEMU(env.Newest))
	a := s.ask(t, "POST", "/migrations?wait=60s", order)
	a.problem(t, http.StatusConflict)
	var refusal struct {
		vmstate.Problem
		Result vmstate.Migration `json:"result"`
	}
	if err := json.Unmarshal(a.body, &refusal); err != nil {
		t.Fatal(err)
	}
	if r := refusal.Result; r.Phase != vmstate.RolledBack || r.Error == nil || r.PauseUS == nil || r.UndoUS == nil || refusal.Step != "load" || refusal.Migration != r.ID ||
		!strings.Contains(refusal.Detail, "a fault that was made") {
		t.Errorf("the problem is %+v", refusal)
	}
	if err := s.points.Arm("flip.plan.before", "1*error(another)"); err != nil {
		t.Fatal(err)
	}
	if out, exit := s.curl(t, "-f", "-d", order, "http://qlive/migrations?wait=60s"); exit != 22 {
		t.Errorf("curl -f ends with %d: %s", exit, out)
	}
	held := into[vmstate.Migration](t, s.ask(t, "POST", "/migrations?wait=60s", fmt.Sprintf(`{"vm":"vm1","binary":%q,"hold":true}`, s.Env.QEMU(env.Newest))), http.StatusAccepted)
	if held.Phase != vmstate.Prepared {
		t.Errorf("the held migration is %s", held.Phase)
	}
	if m := into[vmstate.Migration](t, s.ask(t, "GET", "/migrations/"+held.ID+"?wait=1ms", ""), http.StatusOK); m.Phase != vmstate.Prepared {
		t.Errorf("after a short wait it is %s", m.Phase)
	}
	into[vmstate.Migration](t, s.ask(t, "DELETE", "/migrations/"+held.ID, ""), http.StatusAccepted)
	if m := into[vmstate.Migration](t, s.ask(t, "GET", "/migrations/"+held.ID+"?wait=60s", ""), http.StatusOK); m.Phase != vmstate.Aborted {
		t.Errorf("after cancelling it is %s", m.Phase)
	}
	for _, m := range into[struct{ Items []vmstate.Migration }](t, s.ask(t, "GET", "/migrations?vm=vm1", ""), http.StatusOK).Items {
		if m.Error == nil {
			t.Errorf("migration %s is listed without its problem", m.ID)
		}
	}
	s.vm.CheckMemory()
}

// One key is one migration, however often it is asked for.
func TestIdempotencyKey(t *testing.T) {
	s := newScene(t)
	order := fmt.Sprintf(`{"vm":"vm1","binary":%q,"hold":true}`, s.Env.QEMU(env.Newest))
	first := into[vmstate.Migration](t, s.ask(t, "POST", "/migrations", order, "Idempotency-Key: k1"), http.StatusAccepted)
	for _, wait := range []string{"", "?wait=60s"} {
		if again := into[vmstate.Migration](t, s.ask(t, "POST", "/migrations"+wait, order, "Idempotency-Key: k1"), http.StatusAccepted); again.ID != first.ID {
			t.Errorf("the same key began %s, then %s", first.ID, again.ID)
		}
	}
	if p := s.ask(t, "POST", "/migrations", order, "Idempotency-Key: k2").problem(t, http.StatusConflict); p.Kind() != vmstate.Busy || !strings.Contains(p.Detail, first.ID) {
		t.Errorf("another key: %+v", p)
	}
	if p := s.ask(t, "POST", "/migrations", `{"vm":"vm1"}`, "Idempotency-Key: k1").problem(t, http.StatusUnprocessableEntity); !strings.Contains(p.Detail, "k1") {
		t.Errorf("another request with the key: %+v", p)
	}
	into[vmstate.Migration](t, s.ask(t, "POST", "/migrations/"+first.ID+"/continue", ""), http.StatusAccepted)
	s.reach(t, first.ID, vmstate.Completed)
	if last := into[vmstate.Migration](t, s.ask(t, "POST", "/migrations?wait=60s", order, "Idempotency-Key: k1"), http.StatusOK); last.ID != first.ID || last.Phase != vmstate.Completed {
		t.Errorf("afterwards the key gives %s, %s", last.ID, last.Phase)
	}
	if all := into[struct{ Items []vmstate.Migration }](t, s.ask(t, "GET", "/migrations", ""), http.StatusOK).Items; len(all) != 1 {
		t.Errorf("there are %d migrations", len(all))
	}
}

// What makes no sense is answered with the right status and a sentence that names it, and does nothing.
func TestBadRequests(t *testing.T) {
	s := newScene(t)
	before := s.vm.Show()
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		says                     string
	}{
		{"broken JSON", "POST", "/migrations", `{"vm":`, 400, ""},
		{"no object", "POST", "/migrations", `[]`, 422, ""},
		{"nothing", "POST", "/migrations", ``, 400, ""},
		{"unknown member", "POST", "/migrations", `{"vm":"vm1","binray":"/x"}`, 422, "binray"},
		{"wrong type", "POST", "/migrations", `{"vm":1}`, 422, "vm"},
		{"no such way", "POST", "/migrations", `{"vm":"vm1","way":"magic"}`, 422, "way"},
		{"huge body", "POST", "/migrations", `{"vm":"` + strings.Repeat("x", 2<<20) + `"}`, 413, "limit"},
		{"no name", "POST", "/migrations", `{"vm":".."}`, 422, `".."`},
		{"unknown VM", "POST", "/migrations", `{"vm":"vm9"}`, 404, "vm9"},
		{"unknown binary", "POST", "/migrations", `{"vm":"vm1","binary":"/no/such/qemu"}`, 404, "/no/such/qemu"},
		{"relative binary", "POST", "/migrations", `{"vm":"vm1","binary":"qemu"}`, 422, "absolute"},
		{"no QEMU's folder", "POST", "/migrations", `{"vm":"vm1","binary":"/usr/bin"}`, 403, "/usr/bin"},
		{"wait for ever", "POST", "/migrations?wait=forever", `{"vm":"vm1"}`, 422, "forever"},
		{"unknown VM to show", "GET", "/vms/vm9", "", 404, "vm9"},
		{"a path in place of a VM", "GET", "/vms/..%2F..%2Fetc", "", 422, "etc"},
		{"unknown region", "GET", "/vms/vm1/regions/none", "", 404, "none"},
		{"unknown migration", "GET", "/migrations/mig-9", "", 404, "mig-9"},
		{"unknown trace", "GET", "/migrations/mig-9/trace", "", 404, "mig-9"},
		{"unknown route", "GET", "/no/such/route", "", 404, "/no/such/route"},
		{"wrong method", "PUT", "/vms", "{}", 405, "PUT"},
		{"a taken name", "POST", "/vms", `{"name":"vm1","binary":"/usr/bin/qemu-system-x86_64","args":[]}`, 409, "vm1"},
		{"no event's number", "GET", "/events?after=last", "", 422, "last"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := s.ask(t, tt.method, tt.path, tt.body).problem(t, tt.status)
			if !strings.Contains(p.Detail, tt.says) {
				t.Errorf("%q is not said in %q", tt.says, p.Detail)
			}
		})
	}
	if after := s.vm.Show(); after.PID != before.PID || after.Migration != "" || after.Status != vmstate.Running {
		t.Errorf("something has happened: %+v", after)
	}
	s.vm.CheckTruth()
}

// Pause, resume, reset and power button do what they say, also to a guest that is about to be handed over.
func TestControl(t *testing.T) {
	s := newScene(t)
	do := func(verb string, status int) vmstate.VM {
		t.Helper()
		return into[vmstate.VM](t, s.ask(t, "POST", "/vms/vm1/"+verb, ""), status)
	}
	if vm := do("pause", 200); vm.Status != vmstate.Paused || vm.RunState != "paused" {
		t.Errorf("after pause: %+v", vm)
	}
	beats := s.vm.Report().Beats
	m := s.vm.HandOver(env.Newest, "")
	if vm := s.vm.Show(); vm.Status != vmstate.Paused || m.PauseUS != nil {
		t.Errorf("after handing over the paused guest: %s, pause %v", vm.Status, m.PauseUS)
	}
	if now := s.vm.Report().Beats; now != beats && now > beats+5 { // a few may have been under way
		t.Errorf("the paused guest went on beating: %d, then %d", beats, now)
	}
	if vm := do("resume", 200); vm.Status != vmstate.Running {
		t.Errorf("after resume: %+v", vm)
	}
	s.vm.AwaitBeats(20)

	// Held in prepared, the handoff takes the guest as it is in the end.
	m = s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Installed), Hold: true})
	s.reach(t, m.ID, vmstate.Prepared)
	do("pause", 200)
	into[vmstate.Migration](t, s.ask(t, "POST", "/migrations/"+m.ID+"/continue", ""), http.StatusAccepted)
	m = s.reach(t, m.ID, vmstate.Completed)
	if vm := s.vm.Show(); vm.Status != vmstate.Paused || m.PauseUS != nil {
		t.Errorf("after a pause while it was held: %s, pause %v", vm.Status, m.PauseUS)
	}
	do("resume", 200)
	s.vm.CheckMemory()

	do("reset", 200)
	s.vm.AwaitBoots(2)
	s.vm.CheckMemory()
	do("powerdown", 202)
	s.Eventually("QEMU says that the button was pressed", func() error { return s.transcript("EVENT POWERDOWN") })
}

// transcript tells whether the newest transcript of the VM's monitor has some text.
func (s *scene) transcript(text string) error {
	paths, err := filepath.Glob(filepath.Join(s.Dir, "run/vms/vm1/g*/qmp.log"))
	if err != nil || len(paths) == 0 {
		return fmt.Errorf("there is no transcript: %v", err)
	}
	said, err := os.ReadFile(paths[len(paths)-1])
	if err == nil && !strings.Contains(string(said), text) {
		err = fmt.Errorf("there is no %q in %s", text, paths[len(paths)-1])
	}
	return err
}

// While a handoff switches, whoever wants something of the guest is told to come back, at once; who only reads is answered as ever.
func TestBusy(t *testing.T) {
	s := newScene(t)
	reached := s.blockAt(t, "flip.load.before")
	m := s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(env.Newest), MaxPauseMS: 600_000, TimeoutS: 600})
	reached()
	for _, verb := range []string{"pause", "resume", "reset", "powerdown"} {
		quick(t, verb, func() {
			if p := s.ask(t, "POST", "/vms/vm1/"+verb, "").problem(t, http.StatusConflict); p.Kind() != vmstate.Busy || p.VM != "vm1" || p.Remedy == "" {
				t.Errorf("%s: %+v", verb, p)
			}
		})
	}
	for _, tt := range []struct {
		what, method, path, body string
		kind                     vmstate.Kind
	}{
		{"remove", "DELETE", "/vms/vm1", "", vmstate.Busy},
		{"kill", "DELETE", "/vms/vm1?force=true", "", vmstate.Busy},
		{"hand over", "POST", "/migrations", `{"vm":"vm1"}`, vmstate.Busy},
		{"roll back", "POST", "/vms/vm1/rollback", "", vmstate.Conflict},
		{"cancel", "DELETE", "/migrations/" + m.ID, "", vmstate.Conflict},
		{"continue", "POST", "/migrations/" + m.ID + "/continue", "", vmstate.Conflict},
	} {
		quick(t, tt.what, func() {
			if p := s.ask(t, tt.method, tt.path, tt.body).problem(t, http.StatusConflict); p.Kind() != tt.kind || p.Remedy == "" {
				t.Errorf("%s: %+v", tt.what, p)
			}
		})
	}
	quick(t, "reading", func() {
		if vm := s.vm.Show(); vm.Status != vmstate.Migrating || s.Cat("vm1", "status") != "migrating" || s.Cat("vm1", "migration", "phase") != "switching" {
			t.Errorf("the VM is %s, the tree says %s", vm.Status, s.Cat("vm1", "status"))
		}
	})
	time.Sleep(50 * time.Millisecond) // so that the pause is one that can be told from another
	s.points.Release("flip.load.before")
	if m = s.reach(t, m.ID, vmstate.Completed); *m.PauseUS < 50_000 {
		t.Errorf("a pause that was held up took %d µs", *m.PauseUS)
	}
	s.vm.CheckMemory()
}

// DELETE presses the power button, and forgets the VM once the guest has obeyed; with force it does not ask.
func TestDelete(t *testing.T) {
	s := newScene(t)
	s.vm.HandOver(env.Newest, "")
	pid := s.vm.Show().PID
	if a := s.ask(t, "DELETE", "/vms/vm1", ""); a.StatusCode != http.StatusAccepted {
		t.Fatalf("the answer is %s: %s", a.Status, a.body)
	}
	s.Eventually("QEMU says that the button was pressed", func() error { return s.transcript("EVENT POWERDOWN") })
	if vm := s.vm.Show(); vm.PID != pid || vm.Status != vmstate.Running {
		t.Errorf("before the guest has obeyed the VM is %+v", vm)
	}
	s.vm.Type("poweroff")
	gone := func(name string, pid int) {
		t.Helper()
		s.Eventually("the VM is gone", func() error {
			if a := s.ask(t, "GET", "/vms/"+name, ""); a.StatusCode != http.StatusNotFound {
				return fmt.Errorf("the answer is %s", a.Status)
			}
			return nil
		})
		for _, path := range []string{s.tree(name), filepath.Join(s.Dir, "run/vms", name), fmt.Sprintf("/proc/%d", pid)} {
			if _, err := os.Lstat(path); err == nil {
				t.Errorf("%s is left", path)
			}
		}
	}
	gone("vm1", pid)
	vm := s.Start(lab.Spec{Name: "vm1", Bare: true}) // the name is free
	pid = vm.Show().PID
	if a := s.ask(t, "DELETE", "/vms/vm1?force=true", ""); a.StatusCode != http.StatusNoContent {
		t.Fatalf("the answer is %s: %s", a.Status, a.body)
	}
	gone("vm1", pid)

	// One whose QEMU has ended by itself is there to be looked at until it is removed.
	vm = s.Start(lab.Spec{Name: "vm1", Guest: small()})
	vm.AwaitBoots(1)
	pid = vm.Show().PID
	vm.Type("poweroff")
	s.Eventually("the VM has stopped", func() error {
		if got := vm.Show(); got.Status != vmstate.Stopped || got.PID != 0 {
			return fmt.Errorf("it is %s", got.Status)
		}
		return nil
	})
	for _, verb := range []string{"pause", "resume", "reset", "powerdown"} {
		if p := s.ask(t, "POST", "/vms/vm1/"+verb, "").problem(t, http.StatusConflict); !strings.Contains(p.Remedy, "qlive rm vm1") {
			t.Errorf("%s: %+v", verb, p)
		}
	}
	if a := s.ask(t, "DELETE", "/vms/vm1", ""); a.StatusCode != http.StatusAccepted && a.StatusCode != http.StatusNoContent {
		t.Errorf("the answer is %s: %s", a.Status, a.body)
	}
	gone("vm1", pid)
}

package restapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"qlive/restapi"
	"qlive/restapi/restapitest"
	"qlive/vmstate"
)

func TestMigrate(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{})
	var m vmstate.Migration
	a := s.do("POST", "/migrations", `{"vm":"vm1","binary":"/opt/qemu"}`).want(202).into(&m)
	if a.header.Get("Location") != "/migrations/"+m.ID || m.Phase != vmstate.Planned || m.To.Binary != "/opt/qemu" {
		t.Fatalf("accepted %+v at %q", m, a.header.Get("Location"))
	}
	s.do("POST", "/migrations", `{"vm":"vm1"}`).problem(409, vmstate.Busy)
	s.do("POST", "/vms/vm1/rollback", "").problem(409, vmstate.Busy)
	s.do("POST", "/migrations/"+m.ID+"/continue", "").problem(409, vmstate.Conflict)
	svc.Step(m.ID, vmstate.Preparing)
	s.do("GET", "/v1/migrations/"+m.ID, "").want(200).into(&m)
	if m.Phase != vmstate.Preparing {
		t.Errorf("phase %s", m.Phase)
	}
	s.do("DELETE", "/migrations/"+m.ID, "").want(202).into(&m)
	if m.Phase != vmstate.Aborted {
		t.Errorf("phase %s", m.Phase)
	}
	s.do("DELETE", "/migrations/"+m.ID, "").problem(409, vmstate.Conflict)
	if got := s.do("GET", "/migrations/"+m.ID+"/trace", "").want(200); got.body != `{"traceEvents":[]}` || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("trace %q", got.body)
	}
	a = s.do("POST", "/v1/vms/vm1/rollback", "").want(202).into(&m)
	if a.header.Get("Location") != "/v1/migrations/"+m.ID || m.To.Binary != "/usr/bin/qemu-old" {
		t.Errorf("rollback %+v at %q", m, a.header.Get("Location"))
	}
}

func TestListMigrations(t *testing.T) {
	svc := restapitest.New(restapitest.VM("a"), restapitest.VM("b"))
	s := start(t, svc, restapi.Options{})
	for i := range 6 {
		var m vmstate.Migration
		s.do("POST", "/migrations", fmt.Sprintf(`{"vm":%q}`, "ab"[i%2:i%2+1])).want(202).into(&m)
		svc.Step(m.ID, vmstate.Aborted)
	}
	ids := func(query string) (string, string) {
		var l migrationList
		s.do("GET", "/migrations"+query, "").want(200).into(&l)
		var ids []string
		for _, m := range l.Items {
			ids = append(ids, m.ID)
		}
		return strings.Join(ids, " "), l.NextCursor
	}
	for _, c := range []struct{ query, ids, cursor string }{
		{"", "mig-6 mig-5 mig-4 mig-3 mig-2 mig-1", ""},
		{"?vm=a", "mig-5 mig-3 mig-1", ""},
		{"?vm=a&limit=2", "mig-5 mig-3", "mig-3"},
		{"?vm=a&limit=2&cursor=mig-3", "mig-1", ""},
		{"?vm=none", "", ""},
		{"?limit=6", "mig-6 mig-5 mig-4 mig-3 mig-2 mig-1", ""},
		{"?cursor=mig-1", "", ""},
	} {
		if got, cursor := ids(c.query); got != c.ids || cursor != c.cursor {
			t.Errorf("%q: %q, cursor %q; want %q, %q", c.query, got, cursor, c.ids, c.cursor)
		}
	}
}

func TestWait(t *testing.T) {
	for _, c := range []struct {
		name   string
		steps  []vmstate.Phase
		body   string
		wait   string
		status int
		phase  vmstate.Phase
	}{
		{"completed", restapitest.Full(), `{"vm":"vm1"}`, "1m", 200, vmstate.Completed},
		{"rolled back", restapitest.Undone(), `{"vm":"vm1"}`, "1m", 409, vmstate.RolledBack},
		{"failed", []vmstate.Phase{vmstate.Failed}, `{"vm":"vm1"}`, "1m", 409, vmstate.Failed},
		{"cancelled", []vmstate.Phase{vmstate.Aborted}, `{"vm":"vm1"}`, "1m", 409, vmstate.Aborted},
		{"goes on", nil, `{"vm":"vm1"}`, "20ms", 202, vmstate.Planned},
		{"holds", restapitest.Full(), `{"vm":"vm1","hold":true}`, "1m", 202, vmstate.Prepared},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc := restapitest.New(restapitest.VM("vm1"))
			svc.Run(time.Millisecond, c.steps...)
			s := start(t, svc, restapi.Options{})
			a := s.do("POST", "/migrations?wait="+c.wait, c.body).want(c.status)
			var m vmstate.Migration
			if c.status == 409 {
				var r restapi.Refusal
				a.into(&r)
				if r.Result == nil || r.Migration != r.Result.ID || a.header.Get("Content-Type") != "application/problem+json" || r.Status != 409 {
					t.Fatalf("the problem carries no migration: %s", a.body)
				}
				m = *r.Result
				if m.Error != nil && r.Detail != m.Error.Detail {
					t.Errorf("detail %q", r.Detail)
				}
			} else {
				a.into(&m)
			}
			if m.Phase != c.phase {
				t.Errorf("phase is %s, want %s", m.Phase, c.phase)
			}
		})
	}
}

func TestWaitOnGet(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{})
	var m vmstate.Migration
	s.do("POST", "/migrations", `{"vm":"vm1"}`).want(202).into(&m)
	s.do("GET", "/migrations/"+m.ID+"?wait=10ms", "").want(200).into(&m)
	if m.Phase != vmstate.Planned {
		t.Errorf("phase %s", m.Phase)
	}
	done := make(chan answer, 1)
	go func() { done <- s.do("GET", "/migrations/"+m.ID+"?wait=1m", "") }()
	eventually(t, func() error {
		if svc.Streams() != 1 {
			return fmt.Errorf("%d streams, want the waiter's", svc.Streams())
		}
		return nil
	})
	svc.Step(m.ID, vmstate.RolledBack)
	(<-done).want(200).into(&m)
	if m.Phase != vmstate.RolledBack {
		t.Errorf("phase %s", m.Phase)
	}
	eventually(t, func() error {
		if n := svc.Streams(); n != 0 {
			return fmt.Errorf("%d streams are left", n)
		}
		return nil
	})
}

// A waiter that is cut off from the events for being slow takes a new place.
func TestWaitOutlivesLostEvents(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{})
	var m vmstate.Migration
	s.do("POST", "/migrations", `{"vm":"vm1"}`).want(202).into(&m)
	done := make(chan answer, 1)
	go func() { done <- s.do("GET", "/migrations/"+m.ID+"?wait=1m", "") }()
	for range 10_000 {
		svc.SetVM(restapitest.VM("vm1"))
	}
	svc.Step(m.ID, vmstate.Aborted)
	(<-done).want(200)
}

func TestShutdownEndsWaits(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{})
	done := make(chan answer, 1)
	go func() { done <- s.do("POST", "/migrations?wait=1h", `{"vm":"vm1"}`) }()
	eventually(t, func() error {
		if svc.Streams() != 1 {
			return fmt.Errorf("%d streams, want the waiter's", svc.Streams())
		}
		return nil
	})
	begin := time.Now()
	s.stop()
	(<-done).want(202)
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("the server took %v to stop: it waited for the waiter", took)
	}
}

func TestIdempotencyKey(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"), restapitest.VM("vm2"))
	s := start(t, svc, restapi.Options{})
	post := func(body, key string) answer { return s.do("POST", "/migrations", body, "Idempotency-Key: "+key) }
	var first, again vmstate.Migration
	post(`{"vm":"vm1"}`, "k1").want(202).into(&first)
	a := post(` { "vm" : "vm1" } `, "k1").want(202).into(&again)
	if again.ID != first.ID || a.header.Get("Location") != "/migrations/"+first.ID {
		t.Errorf("the key gave %s, then %s", first.ID, again.ID)
	}
	post(`{"vm":"vm2"}`, "k1").problem(422, vmstate.Invalid)
	post(`{"vm":"vm1"}`, "k2").problem(409, vmstate.Busy)
	svc.Step(first.ID, vmstate.Aborted)
	post(`{"vm":"vm1"}`, "k1").want(202).into(&again)
	if again.ID != first.ID || again.Phase != vmstate.Aborted {
		t.Errorf("the key gives %s, %s", again.ID, again.Phase)
	}
	// What was refused was not done, and can be tried with the same key.
	post(`{"vm":"vm1"}`, "k2").want(202).into(&again)
	if again.ID == first.ID {
		t.Error("another key gave the same migration")
	}
}

// A daemon that was started anew knows the key of a migration that it remembers.
func TestIdempotencyKeyAfterARestart(t *testing.T) {
	before, after := restapitest.New(restapitest.VM("vm1")), restapitest.New(restapitest.VM("vm1"))
	var first, again vmstate.Migration
	start(t, before, restapi.Options{}).do("POST", "/migrations", `{"vm":"vm1"}`, "Idempotency-Key: k1").want(202).into(&first)
	after.Change(vmstate.Event{Type: vmstate.EventMigration}, func(n *vmstate.Snapshot) { n.Migrations = before.Snapshot().Migrations })
	s := start(t, after, restapi.Options{})
	s.do("POST", "/migrations", `{"vm":"vm1","hold":true}`, "Idempotency-Key: k1").problem(422, vmstate.Invalid)
	s.do("POST", "/migrations", `{"vm":"vm1"}`, "Idempotency-Key: k1").want(202).into(&again)
	if again.ID != first.ID {
		t.Errorf("the key gave %s, then %s", first.ID, again.ID)
	}
}

func TestIdempotencyKeyUsedAtOnce(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{})
	ids := make([]string, 20)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			r, err := http.NewRequestWithContext(t.Context(), "POST", "http://qlive/migrations", strings.NewReader(`{"vm":"vm1"}`))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Idempotency-Key", "same")
			resp, err := s.http.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			ids[i] = fmt.Sprint(resp.StatusCode, resp.Header.Get("Location"))
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != "202/migrations/mig-1" {
			t.Errorf("answers %q", ids)
			break
		}
	}
}

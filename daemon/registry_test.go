package daemon

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"qlive/vmstate"
)

func names(s *vmstate.Snapshot) (list []string) {
	for _, vm := range s.VMs {
		list = append(list, vm.Name)
	}
	return list
}

func TestRegistryVMs(t *testing.T) {
	r := newRegistry("test", newHub())
	empty := r.Snapshot()
	for _, name := range []string{"web", "db", "mail"} {
		r.putVM(vmstate.VM{Name: name, Status: vmstate.Starting})
	}
	three := r.Snapshot()
	if diff := cmp.Diff([]string{"db", "mail", "web"}, names(three)); diff != "" {
		t.Errorf("VMs in order (-want +got):\n%s", diff)
	}
	r.putVM(vmstate.VM{Name: "mail", Status: vmstate.Running})
	r.dropVM("db")
	r.dropVM("db") // once more does nothing
	if diff := cmp.Diff([]string{"mail", "web"}, names(r.Snapshot())); diff != "" {
		t.Errorf("VMs afterwards (-want +got):\n%s", diff)
	}
	if vm, _ := r.Snapshot().VM("mail"); vm.Status != vmstate.Running {
		t.Errorf("mail is %s", vm.Status)
	}
	// What was read before has not changed under its reader.
	if vm, _ := three.VM("mail"); len(empty.VMs) != 0 || len(three.VMs) != 3 || vm.Status != vmstate.Starting {
		t.Errorf("old snapshots have changed: %v, %v", names(empty), names(three))
	}
}

func TestRegistryMigrations(t *testing.T) {
	r := newRegistry("test", newHub())
	begin := time.Now()
	put := func(n int, phase vmstate.Phase) {
		r.putMigration(vmstate.Migration{ID: fmt.Sprintf("mig-%d", n), VM: "vm1", Phase: phase, StartedAt: begin.Add(time.Duration(n) * time.Second)})
	}
	for n := range keptMigrations + 5 {
		put(n, vmstate.Planned)
		put(n, vmstate.Completed)
	}
	s := r.Snapshot()
	newest := fmt.Sprintf("mig-%d", keptMigrations+4)
	if len(s.Migrations) != keptMigrations || s.Migrations[0].ID != newest || s.Migrations[keptMigrations-1].ID != "mig-5" {
		t.Errorf("%d are kept, from %s to %s", len(s.Migrations), s.Migrations[0].ID, s.Migrations[len(s.Migrations)-1].ID)
	}
	if m, ok := s.Migration(newest); !ok || m.Phase != vmstate.Completed {
		t.Errorf("the newest is %+v", m)
	}
}

// Every change is one event with the next number, and the snapshot that it led to can be read by then.
func TestRegistryEvents(t *testing.T) {
	r := newRegistry("test", newHub())
	r.putVM(vmstate.VM{Name: "vm0"})
	sub := r.Subscribe(0)
	defer sub.Close()
	r.putVM(vmstate.VM{Name: "vm1", Migration: "mig-1"})
	r.putMigration(vmstate.Migration{ID: "mig-1", VM: "vm1"})
	r.putHealth(vmstate.Health{Ready: true})
	r.dropVM("vm1")
	events, _ := take(sub)
	var got []string
	for _, e := range events {
		got = append(got, fmt.Sprintf("%d %s %s %s %v", e.Seq, e.Type, e.VM, e.Migration, e.Deleted))
		if e.At.IsZero() {
			t.Errorf("event %d has no time", e.Seq)
		}
	}
	want := []string{"1 reset   false", "2 vm vm1 mig-1 false", "3 migration vm1 mig-1 false", "4 health   false", "5 vm vm1  true"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	state, ok := events[0].Data.(vmstate.State)
	if !ok || len(state.VMs) != 1 || state.Migrations == nil {
		t.Errorf("the reset holds %+v", events[0].Data)
	}
	if s := r.Snapshot(); s.Seq != 5 || !s.Health.Ready {
		t.Errorf("the snapshot is %+v", s)
	}
}

func TestMetrics(t *testing.T) {
	r := newRegistry("1.2.3", newHub())
	m := newMetrics("1.2.3", r)
	r.putVM(vmstate.VM{Name: "vm1", Status: vmstate.Running, RAMBytes: 1 << 28})
	pause := int64(3200)
	m.handedOver(vmstate.Migration{Phase: vmstate.Completed, PauseUS: &pause, Phases: []vmstate.PhaseTime{{Phase: vmstate.Switching, US: 2500}, {Phase: vmstate.Completed}}})
	m.handedOver(vmstate.Migration{Phase: vmstate.Completed}) // of a guest that was paused
	m.handedOver(vmstate.Migration{Phase: vmstate.RolledBack, PauseUS: &pause})

	w := httptest.NewRecorder()
	m.handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text := w.Body.String()
	for _, want := range []string{
		`qlive_build_info{version="1.2.3"} 1`, `qlive_vm_status{status="running",vm="vm1"} 1`, `qlive_vm_ram_bytes{vm="vm1"} 2.68435456e+08`,
		`qlive_migrations_total{result="completed"} 2`, `qlive_migrations_total{result="rolled_back"} 1`,
		`qlive_migration_pause_seconds_count 1`, `qlive_migration_pause_seconds_sum 0.0032`,
		`qlive_migration_phase_seconds_count{phase="switching"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, `phase="completed"`) {
		t.Error("an end is counted as a phase")
	}
	problems, err := promlint.New(w.Body).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %+v, %v", problems, err)
	}
}

package restapitest

import (
	"context"
	"fmt"
	"time"

	"qlive/vmstate"
)

// Now is a time one minute after the VMs of this package were started, for restapi.Options.
func Now() time.Time { return time.Date(2026, 1, 2, 3, 5, 5, 0, time.UTC) }

// VM is a running VM with one region, for New.
func VM(name string) vmstate.VM {
	region := vmstate.Region{Name: "ram0", SizeBytes: 256 << 20, PageBytes: 4096, Backing: vmstate.Memfd, Inode: 7}
	return vmstate.VM{
		Name: name, Status: vmstate.Running, RunState: "running", PID: 4711, StartedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), UptimeS: 60,
		Machine: "pc-q35-7.2", QEMU: vmstate.QEMUInfo{Binary: "/usr/bin/qemu-system-x86_64", Version: "7.2.22"}, RAMBytes: 256 << 20,
		Regions: []vmstate.Region{region.Reset(4711)}, Restart: vmstate.RestartNever,
	}
}

// Full is how a VM's migration goes well.
func Full() []vmstate.Phase {
	return []vmstate.Phase{vmstate.Preparing, vmstate.Prepared, vmstate.Switching, vmstate.Committing, vmstate.Committed, vmstate.Draining, vmstate.Completed}
}

// Undone is how a VM's migration is rolled back.
func Undone() []vmstate.Phase {
	return []vmstate.Phase{vmstate.Preparing, vmstate.Prepared, vmstate.Switching, vmstate.RolledBack}
}

// Migrate implements restapi.Service.
func (s *Service) Migrate(_ context.Context, spec vmstate.MigrationSpec) (vmstate.Migration, error) {
	vm, err := s.find(spec.VM)
	if err != nil {
		return vmstate.Migration{}, err
	}
	for _, m := range s.Snapshot().Migrations {
		if m.VM == spec.VM && !m.Phase.Ended() {
			e := vmstate.Errorf(vmstate.Busy, "cannot migrate VM %s: migration %s is %s", spec.VM, m.ID, m.Phase).With("wait for it, or cancel it")
			e.VM = spec.VM
			return m, e
		}
	}
	if spec.Binary == "" {
		spec.Binary = vm.QEMU.Binary
	}
	s.mu.Lock()
	s.nextID++
	id := fmt.Sprintf("mig-%d", s.nextID)
	s.mu.Unlock()
	now := time.Date(2026, 1, 2, 3, 5, 0, 0, time.UTC)
	m := vmstate.Migration{
		ID: id, VM: spec.VM, Mode: vmstate.ModeShared, Way: vmstate.WayDeviceState, Phase: vmstate.Planned,
		From: vmstate.QEMUProcess{Binary: vm.QEMU.Binary, Version: vm.QEMU.Version, PID: vm.PID}, To: vmstate.QEMUProcess{Binary: spec.Binary, Version: "10.0.2", PID: 4712},
		StartedAt: now, Phases: []vmstate.PhaseTime{{Phase: vmstate.Planned, At: now}}, Regions: vm.Regions, Spec: &spec,
	}
	vm.Migration = id
	s.SetVM(vm)
	s.SetMigration(m)
	s.runs.Go(func() { s.run(id, s.steps.Load()) })
	return m, nil
}

// run moves a migration on until it holds.
func (s *Service) run(id string, steps *script) {
	for _, phase := range steps.phases {
		m, _ := s.Snapshot().Migration(id)
		if !m.Phase.CanBecome(phase) {
			continue // gone on from where it held
		}
		if phase == vmstate.Switching && m.Spec.Hold {
			return
		}
		select {
		case <-time.After(steps.every):
		case <-s.closed:
			return
		}
		s.Step(id, phase)
	}
}

// Step moves a migration to phase.
func (s *Service) Step(id string, phase vmstate.Phase) vmstate.Migration {
	m, _ := s.Snapshot().Migration(id)
	pause, own := int64(2900), int64(2400)
	m.Phase = phase
	m.Phases = append(m.Phases[:len(m.Phases):len(m.Phases)], vmstate.PhaseTime{Phase: phase, At: m.StartedAt.Add(time.Duration(len(m.Phases)) * time.Millisecond), US: 1000})
	m.TotalUS = int64(len(m.Phases)) * 1000
	switch phase {
	case vmstate.Committed:
		m.PauseUS, m.QEMUPause = &pause, &own
	case vmstate.Completed:
		m.Progress = 100
		vm, _ := s.Snapshot().VM(m.VM)
		vm.Generation++
		vm.QEMU = vmstate.QEMUInfo{Binary: m.To.Binary, Version: m.To.Version}
		s.SetVM(vm)
	case vmstate.RolledBack, vmstate.Failed:
		e := vmstate.Errorf(vmstate.Incompatible, "cannot hand VM %s over: the target does not take its device state", m.VM).With("use another binary")
		if phase == vmstate.Failed {
			e = vmstate.Errorf(vmstate.Lost, "cannot say who runs VM %s", m.VM).With("ask a person")
		}
		e.Step, e.VM, e.Migration, e.Words = "load", m.VM, id, []string{"qemu: error while loading state"}
		m.PauseUS = &pause
		m.Error = vmstate.ProblemOf(e)
	}
	if phase.Ended() {
		end := m.StartedAt.Add(time.Duration(m.TotalUS) * time.Microsecond)
		m.EndedAt = &end
	}
	s.SetMigration(m)
	return m
}

// RollbackVM implements restapi.Service.
func (s *Service) RollbackVM(ctx context.Context, name string) (vmstate.Migration, error) {
	return s.Migrate(ctx, vmstate.MigrationSpec{VM: name, Binary: "/usr/bin/qemu-old"})
}

// ContinueMigration implements restapi.Service.
func (s *Service) ContinueMigration(_ context.Context, id string) (vmstate.Migration, error) {
	m, err := s.migration(id)
	if err != nil {
		return m, err
	}
	if m.Phase != vmstate.Prepared {
		return m, vmstate.Errorf(vmstate.Conflict, "cannot continue migration %s: it is %s, not prepared", id, m.Phase)
	}
	spec := *m.Spec
	spec.Hold = false
	m.Spec = &spec
	s.SetMigration(m)
	s.runs.Go(func() { s.run(id, s.steps.Load()) })
	return m, nil
}

// CancelMigration implements restapi.Service.
func (s *Service) CancelMigration(_ context.Context, id string) (vmstate.Migration, error) {
	m, err := s.migration(id)
	if err != nil {
		return m, err
	}
	if !m.Phase.Revocable() {
		return m, vmstate.Errorf(vmstate.Conflict, "cannot cancel migration %s: it is %s", id, m.Phase)
	}
	return s.Step(id, vmstate.Aborted), nil
}

// Trace implements restapi.Service.
func (s *Service) Trace(id string) ([]byte, error) {
	if _, err := s.migration(id); err != nil {
		return nil, err
	}
	return []byte(`{"traceEvents":[]}`), nil
}

func (s *Service) migration(id string) (vmstate.Migration, error) {
	if err := s.refused(); err != nil {
		return vmstate.Migration{}, err
	}
	m, ok := s.Snapshot().Migration(id)
	if !ok {
		e := vmstate.Errorf(vmstate.NotFound, "cannot find migration %q", id)
		e.Migration = id
		return m, e
	}
	return m, nil
}

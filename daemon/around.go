package daemon

import (
	"context"
	"os"

	"qlive/internal/qemu"
)

// around is what a QEMU is started amid that takes a guest over: what the one has that has the guest, whoever has changed it since. The zero value
// is what the daemon is started amid.
type around struct {
	env      []string
	schedule *qemu.Schedule
	files    []*os.File // that it is given beside its RAM
	headers  []int      // lengths of the headers of the taps among them
}

// aroundOf is that of a QEMU. What cannot be seen of it is the daemon's own.
func (m *machine) aroundOf(g *generation) (a around) {
	pid := g.side.Process.PID()
	env, err := qemu.EnvironmentOf(pid)
	if err != nil {
		m.log.Warn().Err(err).Msg("the next QEMU has the daemon's environment")
	}
	schedule, err := qemu.ReadSchedule(pid)
	if err != nil {
		m.log.Warn().Err(err).Msg("the next QEMU is scheduled as the daemon is")
		return around{env: env}
	}
	return around{env: env, schedule: &schedule}
}

// scheduleThreads lets the threads of a QEMU that waits for the guest be scheduled as those of the one that has it, where they differ from their
// process: virtual CPUs that were pinned one by one, and iothreads.
func scheduleThreads(ctx context.Context, from, to *generation) error {
	theirs, err := from.threads(ctx)
	if err != nil {
		return err
	}
	ours, err := to.threads(ctx)
	if err != nil {
		return err
	}
	process, err := qemu.ReadSchedule(from.side.Process.PID())
	if err != nil {
		return err
	}
	for name, thread := range theirs {
		s, err := qemu.ReadSchedule(thread)
		if err != nil {
			return err
		}
		if other, ok := ours[name]; ok && s != process {
			if err := s.Apply(other); err != nil {
				return err
			}
		}
	}
	return nil
}

// thread names one of a QEMU's threads by what it does, the same in every QEMU of the guest: a virtual CPU by its index, an iothread by its id.
type thread struct {
	cpu      int
	iothread string
}

// threads are the numbers of those that QEMU tells of.
func (g *generation) threads(ctx context.Context) (map[thread]int, error) {
	cpus, err := g.side.Monitor.QueryCPUsFast(ctx)
	if err != nil {
		return nil, err
	}
	iothreads, err := g.side.Monitor.QueryIOThreads(ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[thread]int)
	for _, c := range cpus {
		all[thread{cpu: c.Index}] = c.ThreadID
	}
	for _, t := range iothreads {
		all[thread{iothread: t.ID}] = t.ThreadID
	}
	return all, nil
}

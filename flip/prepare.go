package flip

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"qlive/internal/qmp"
	"qlive/vmstate"
)

// prepare brings the target to where it only waits for the device state, with the guest running all the while.
func (h *Handoff) prepare(ctx context.Context) error {
	steps := append(h.mode.ask(), step{name: "start-target", do: h.startTarget, undo: h.fence})
	steps = append(steps, h.mode.prepare()...)
	if err := h.run(ctx, steps...); err != nil {
		return err
	}
	h.noteExtra()
	return nil
}

// inspectSource finds out what the guest does now, and whether QEMU itself sees something in the way.
func (h *Handoff) inspectSource(ctx context.Context) error {
	monitor := h.cfg.Source.Monitor
	state, err := monitor.QueryStatus(ctx)
	if err != nil {
		return err
	}
	h.runState = string(state.Status)
	switch state.Status {
	case qmp.RunRunning:
		h.resume = true
	case qmp.RunPaused, qmp.RunPrelaunch, qmp.RunPostMigrate: // the last: it was paused, and a handoff by QEMU's migrate was undone
		h.resume = false
	default:
		return vmstate.Errorf(vmstate.Unsupported, "cannot hand %s over while its run state is %s", h.cfg.Migration.VM, h.runState).
			With("hand over guests that are running, paused or not yet started; bring the guest into one of these states first")
	}
	if state.Status == qmp.RunPostMigrate && h.cfg.Way != vmstate.WayDeviceState {
		return vmstate.Errorf(vmstate.Unsupported, "cannot hand %s over by %s: it stands since a handoff that was undone, and QEMU migrates such a guest only once it has run again",
			h.cfg.Migration.VM, h.cfg.Way).With("ask for mode shared and the way device_state, or resume the guest first")
	}
	if !h.resume && h.cfg.Scripts {
		return vmstate.Errorf(vmstate.Unsupported, "cannot hand %s over while it is %s: as it ends, its QEMU runs a script that takes its network interface down", h.cfg.Migration.VM, h.runState).
			With("resume the guest first, or start it anew with downscript=no")
	}
	migration, err := monitor.QueryMigrate(ctx)
	if err != nil {
		return err
	}
	if len(migration.BlockedReasons) > 0 {
		return &vmstate.Error{
			Kind: vmstate.Unsupported, Detail: "cannot hand the guest over: QEMU says that it must not be migrated",
			Words: migration.BlockedReasons, Remedy: "remove the device or the option that QEMU names, and restart the guest",
		}
	}
	return h.noBlockWork(ctx)
}

// noBlockWork makes sure that nothing works on the guest's images behind its back: a job or an export would go on in the source, or end
// with it, and not all versions of QEMU say so when the images change hands.
func (h *Handoff) noBlockWork(ctx context.Context) error {
	var jobs, exports []struct {
		ID   string `json:"id"`
		Type string `json:"type"`
	}
	monitor := h.cfg.Source.Monitor
	if err := monitor.Do(ctx, "query-jobs", nil, &jobs); err != nil {
		return err
	}
	if err := monitor.Do(ctx, "query-block-exports", nil, &exports); err != nil {
		return err
	}
	var names []string
	for _, j := range jobs {
		names = append(names, "the "+j.Type+" job "+j.ID)
	}
	for _, e := range exports {
		names = append(names, "the "+e.Type+" export "+e.ID)
	}
	if len(names) > 0 {
		return vmstate.Errorf(vmstate.Conflict, "cannot hand the guest over while QEMU works on its images: %s", strings.Join(names, ", ")).
			With("wait for it, or end it, and ask again")
	}
	return nil
}

// startTarget starts the other QEMU and meets its monitor.
func (h *Handoff) startTarget(ctx context.Context) error {
	if err := h.may(vmstate.ActStartTarget); err != nil {
		return err
	}
	target, err := h.cfg.Start(ctx)
	if target != nil {
		h.mu.Lock()
		h.target = target
		h.m.To.PID, h.m.To.Version, h.m.To.Binary = target.Process.PID(), target.Version, target.Binary
		h.mu.Unlock()
	}
	if err != nil {
		return err
	}
	if err := h.record(vmstate.Preparing, nil); err != nil { // now that the target has a number
		return vmstate.Errorf(vmstate.Host, "cannot write the target into the journal: %w", err).With("make room in the run directory")
	}
	h.publish()
	state, err := target.Monitor.QueryStatus(ctx)
	if err != nil {
		return err
	}
	if state.Status != qmp.RunInMigrate {
		return vmstate.Errorf(vmstate.Incompatible, "cannot use %s as a target: its run state is %s, not inmigrate", target.Binary, state.Status).
			With("the binary must pass -incoming defer and -S on to QEMU")
	}
	return h.warnOfVersions(ctx)
}

// warnOfVersions says what is known of a pair of versions before the guest is in it. QEMU 10.0.13 gives every virtqueue 1024
// entries when the device is reset, which QEMU 11.1 and later refuse to load (hw/virtio/virtio.c of both).
func (h *Handoff) warnOfVersions(context.Context) error {
	if !sizesQueuesTo1024(h.target.Version) {
		return nil
	}
	h.warn("QEMU %s gives the queues of virtio devices 1024 entries when the guest or the driver resets them; such a guest cannot go on to QEMU 11.1 or later, "+
		"not even by way of another version, until it is restarted", h.target.Version)
	return nil
}

// sizesQueuesTo1024 tells whether a release of the 10.0 series carries the change; 10.0.13 does, 10.0.2 does not.
func sizesQueuesTo1024(version string) bool {
	var minor int
	_, err := fmt.Sscanf(version, "10.0.%d", &minor)
	return err == nil && minor >= 13
}

// prepareTarget sets what the target must know before it loads: guest RAM is not in the stream, images stay inactive until cont.
func (h *Handoff) prepareTarget(ctx context.Context) error { return h.setCapabilities(ctx, h.target) }

// setCapabilities sets what a side needs for a migration in which guest RAM stays where it is.
func (h *Handoff) setCapabilities(ctx context.Context, side *Side) error {
	want := map[string]bool{qmp.CapEvents: true, qmp.CapReturnPath: true, qmp.CapIgnoreShared: true}
	if side == h.target {
		want[qmp.CapLateBlockActivate] = true // unconditional since 10.0, and accepted there all the same
	}
	return h.equip(ctx, side, want)
}

// equip switches capabilities of a side, and lifts the limits that QEMU puts on a migration over a network.
func (h *Handoff) equip(ctx context.Context, side *Side, want map[string]bool) error {
	if err := h.capabilities(ctx, side, want); err != nil {
		return err
	}
	return side.Monitor.MigrateSetParameters(ctx, qmp.MigrateParameters{MaxBandwidth: new(int64)})
}

// capabilities switches capabilities of a side and reads them back.
func (h *Handoff) capabilities(ctx context.Context, side *Side, want map[string]bool) error {
	if err := side.Monitor.MigrateSetCapabilities(ctx, want); err != nil {
		return err
	}
	have, err := side.Monitor.QueryMigrateCapabilities(ctx)
	if err != nil {
		return err
	}
	var missing []string
	for name, on := range want {
		if have[name] != on {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return vmstate.Errorf(vmstate.Incompatible, "cannot switch %s in QEMU %s", strings.Join(missing, ", "), side.Version)
	}
	return nil
}

// lastLook is the last thing before the guest is stopped: whatever may have changed while the handoff was held.
func (h *Handoff) lastLook(ctx context.Context) error {
	return h.run(ctx, step{name: "last-look", do: func(ctx context.Context) error {
		h.listen()
		was := h.runState
		if err := h.inspectSource(ctx); err != nil {
			return err
		}
		if h.runState != was {
			h.logf("the guest is %s now, it was %s", h.runState, was)
		}
		if h.cfg.Spec.Hold { // time enough for somebody to plug something in or out
			return h.mode.compareAgain(ctx)
		}
		return nil
	}})
}

// seeMapped proves the mapping, and shows it.
func (h *Handoff) seeMapped(ctx context.Context) error {
	err := h.verifyMapping(ctx)
	h.publish()
	return err
}

// warmTarget lets the target allocate and free some memory. About 10 ms after its last work a QEMU gives the free part of its heap back to the
// kernel (malloc_trim in its RCU thread, util/rcu.c); what it loads then costs some 200 page faults more, 0.3 ms of the pause. The answer is of
// no interest; it is the cheapest large one that every version has.
func (h *Handoff) warmTarget(ctx context.Context) error {
	return h.target.Monitor.Do(ctx, "query-command-line-options", nil, nil)
}

// takeBack takes from the source what it was given for the handoff, unless it has ended.
func (h *Handoff) takeBack(ctx context.Context) error {
	if h.cfg.Source.ended() {
		return nil
	}
	if err := h.way.release(ctx); err != nil {
		h.logf("the source keeps something of the handoff: %v", err) // it does the guest no harm
	}
	return nil
}

func (h *Handoff) logf(format string, args ...any) {
	line := vmstate.LogLine{At: time.Now().UTC(), Text: fmt.Sprintf(format, args...)}
	h.cfg.Log.Info().Str("migration", h.cfg.Migration.ID).Msg(line.Text)
	h.change(func(m *vmstate.Migration) { m.Log = append(m.Log, line) })
}

func (h *Handoff) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	h.change(func(m *vmstate.Migration) { m.Warnings = append(m.Warnings, text) })
	h.logf("warning: %s", text)
}

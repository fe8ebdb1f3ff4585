package daemon

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"time"

	"qlive/internal/carry"
	"qlive/internal/foreign"
	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// vhostNet is what a tap with vhost opens for each of its queues (net/tap.c).
const vhostNet = "/dev/vhost-net"

// holdings are what a QEMU of the VM holds that the next one is given by descriptor.
func (m *machine) holdings(g *generation) ([]cmdline.Holding, error) {
	args := g.line.Argv()
	if !g.foreign {
		return cmdline.Holdings(args, nil)
	}
	args, err := cmdline.Inline(args, m.facts.Configs)
	if err != nil {
		return nil, err
	}
	return cmdline.Holdings(args, m.facts.Listeners)
}

// runsScripts tells whether a QEMU takes an interface down as it quits.
func (m *machine) runsScripts(g *generation) bool {
	list, err := m.holdings(g)
	for _, h := range list {
		if h.Script {
			return true
		}
	}
	return err != nil // for all that is known
}

// held are copies of what a QEMU holds.
type held struct {
	files []*os.File // in the order of the next one's numbers
	taps  []*os.File
	ports []*os.File
}

func (h *held) close() {
	for _, f := range h.files {
		_ = f.Close() // nothing was written
	}
}

// copyHeld copies what of those kinds a QEMU holds.
func (m *machine) copyHeld(ctx context.Context, g *generation, which func(cmdline.Holding) bool) (_ *held, err error) {
	var list []cmdline.Holding
	all, err := m.holdings(g)
	if err != nil {
		return nil, err
	}
	sets := map[int64][]int{}
	for _, h := range all {
		if which(h) {
			list = append(list, h)
		}
		if h.Kind == vmstate.HeldImage && len(sets) == 0 && which(h) {
			if sets, err = g.side.Monitor.QueryFdsets(ctx); err != nil {
				return nil, err
			}
		}
	}
	if len(list) == 0 {
		return &held{}, nil
	}
	open, err := foreign.Descriptors(g.side.Process.PID(), nil)
	if err != nil {
		return nil, err
	}
	numbers, err := foreign.Match(list, open, sets)
	if err != nil {
		return nil, err
	}
	copies := &held{}
	defer undo(&err, func() error { copies.close(); return nil })
	for i, h := range list {
		for _, n := range numbers[i] {
			f, err := g.side.Process.Descriptor(n)
			if err != nil {
				return nil, err
			}
			copies.files = append(copies.files, f)
			switch h.Kind {
			case vmstate.HeldTap:
				copies.taps = append(copies.taps, f)
			case vmstate.HeldListening:
				copies.ports = append(copies.ports, f)
			}
		}
	}
	return copies, nil
}

// handOn gives a planned QEMU what the one holds that has the guest. What it returns is to be closed once that QEMU has been started.
func (m *machine) handOn(ctx context.Context, from *generation, to *plan) (_ *held, err error) {
	has, err := m.copyHeld(ctx, from, func(cmdline.Holding) bool { return true })
	if err != nil {
		return nil, err
	}
	defer undo(&err, func() error { has.close(); return nil })
	wants, err := cmdline.Holdings(to.line.Argv(), nil)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	left := has.files
	for _, w := range wants {
		if w.Count > len(left) {
			return nil, vmstate.Errorf(vmstate.Internal, "cannot hand %s over: its next QEMU is to be given more descriptors than the one before it has", m.spec.Name)
		}
		files, left = append(files, left[:w.Count]...), left[w.Count:]
		for range w.VhostFDs {
			f, err := os.OpenFile(vhostNet, os.O_RDWR, 0)
			if err != nil {
				return nil, vmstate.Errorf(vmstate.Host, "cannot open %s for the next QEMU of %s: %w", vhostNet, m.spec.Name, err).With("load the module: modprobe vhost_net")
			}
			has.files, files = append(has.files, f), append(files, f)
		}
	}
	has.files = files
	for _, f := range has.ports {
		if err := carry.Shut(f); err != nil {
			return nil, err
		}
	}
	return has, nil
}

// checkImages makes sure that a QEMU can let go of its images.
func (m *machine) checkImages(ctx context.Context, g *generation) error {
	images, err := foreign.Images(ctx, g.side.Monitor, m.spec.Dir)
	if err != nil {
		return err
	}
	open, err := foreign.Descriptors(g.side.Process.PID(), images)
	if err != nil {
		return err
	}
	return foreign.CheckImages(open)
}

// openPorts lets others connect again to what a QEMU listens on, which has been shut while there were two.
func (m *machine) openPorts(ctx context.Context, g *generation) error {
	ports, err := m.copyHeld(ctx, g, func(h cmdline.Holding) bool { return h.Kind == vmstate.HeldListening })
	if err != nil {
		return err
	}
	defer ports.close()
	var errs []error
	for _, f := range ports.ports {
		errs = append(errs, carry.Open(f))
	}
	return errors.Join(errs...)
}

// reopenPorts opens everything that a QEMU can have only now that it is the only one. What it has already is left alone.
func (m *machine) reopenPorts(ctx context.Context, g *generation) error {
	errs := []error{m.openPorts(ctx, g)}
	for _, l := range g.line.Later {
		errs = append(errs, g.openLater(ctx, l))
	}
	return errors.Join(errs...)
}

func (g *generation) openLater(ctx context.Context, l cmdline.Later) error {
	if l.Kind == cmdline.LaterVNC {
		list, err := g.side.Monitor.QueryVNCServers(ctx)
		if err != nil || len(list) > 0 && len(list[0].Server) > 0 {
			return err
		}
		if err := g.side.Monitor.VNCListen(ctx, l.VNC); err != nil {
			return vmstate.Errorf(vmstate.QEMU, "cannot open port %s of VNC in the new QEMU: %w", l.VNC.Port, err).
				With("free the port, and let it listen by QMP: display-update, type vnc")
		}
		return nil
	}
	text, err := g.side.Monitor.HumanMonitorCommand(ctx, "info usernet")
	if err != nil || forwards(text, l.Rule) {
		return err
	}
	said, err := g.side.Monitor.HumanMonitorCommand(ctx, "hostfwd_add "+l.Of+" "+l.Rule)
	if said = strings.TrimSpace(said); err == nil && said != "" {
		err = errors.New(said)
	}
	if err != nil {
		return vmstate.Errorf(vmstate.QEMU, "cannot forward %s in the new QEMU: %w", l.Rule, err).With("free the port, then hostfwd_add " + l.Of + " " + l.Rule)
	}
	return nil
}

var (
	forwardRule = regexp.MustCompile(`^(tcp|udp)?:[^:]*:(\d+)-`)
	forwardLine = regexp.MustCompile(`(?m)^ *(TCP|UDP)\[HOST_FORWARD\] +\S+ +\S+ +(\d+) `)
)

// forwards tells from the words of `info usernet` whether the port of a rule is there.
func forwards(text, rule string) bool {
	want := forwardRule.FindStringSubmatch(rule)
	if want == nil {
		return false
	}
	for _, has := range forwardLine.FindAllStringSubmatch(text, -1) {
		if has[2] == want[2] && (strings.EqualFold(has[1], want[1]) || want[1] == "" && has[1] == "TCP") {
			return true
		}
	}
	return false
}

// restoreTaps makes the taps of a QEMU again what they were before an earlier daemon started another one beside it, which is dead or about to be.
func (m *machine) restoreTaps(ctx context.Context, g *generation) error {
	if m.started.Number <= g.number || len(m.started.Headers) == 0 {
		return nil
	}
	has, err := m.copyHeld(ctx, g, func(h cmdline.Holding) bool { return h.Kind == vmstate.HeldTap })
	if err != nil {
		return err
	}
	defer has.close()
	return carry.SetHeaderLengths(has.taps, m.started.Headers)
}

// alone is called when the source is seen dead: what it says is wrong beside.
func (r *run) alone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	return r.m.reopenPorts(ctx, r.target)
}

// settleHeld does the same for a VM that was taken up. Of the QEMUs that it had some may be about to end.
func (m *machine) settleHeld(g *generation) {
	if err := m.restoreTaps(m.d.running, g); err != nil {
		m.log.Warn().Err(err).Msg("taps not set back")
	}
	for deadline := time.Now().Add(lookLimit); ; {
		err := m.reopenPorts(m.d.running, g)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			m.log.Warn().Err(err).Msg("not every port is open again")
			return
		}
		select {
		case <-g.side.Gone():
			return
		case <-m.released:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

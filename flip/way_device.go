package flip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"qlive/internal/qmp"
	"qlive/internal/room"
	"qlive/vmstate"
	"qlive/vmstate/stream"
)

// deviceWay moves the device state alone. While the guest runs the target is sent a stream that qlive composes: the
// configuration, the table of RAM blocks, and the pages of the blocks that are not shared; its PONG says that it has loaded them. With the
// guest stopped the source writes its devices (xen-save-devices-state, in every build of QEMU since 2.11), and the target
// gets what has changed of the blocks and the devices. The source enters no migration, so nothing in the pause depends on the
// size of RAM, and undoing it is a plain cont.
type deviceWay struct {
	h        *Handoff
	conn     *net.UnixConn
	composer *stream.Composer
	answers  *stream.ReturnPath
	ahead    *mirror
	saved    *os.File       // that the source writes its devices into
	set      int64          // number of the set of descriptors through which it has that file
	saving   *qmp.Call      // its writing
	table    []qmp.RAMBlock // the source's, as the target was told
}

// firstSet begins the numbers of the sets of descriptors that the source gets, one for each attempt.
const firstSet = 1000

// pingAhead is the number of the PING after what is sent ahead.
const pingAhead = 1

func (w *deviceWay) prepare(ctx context.Context) error {
	h := w.h
	if err := w.open(ctx); err != nil {
		return err
	}
	defer w.deadline(ctx)()
	if err := w.openSaved(ctx); err != nil {
		return err
	}
	var machine string
	if err := h.cfg.Source.Monitor.QOMGet(ctx, "/machine", "type", &machine); err != nil {
		return err
	}
	blocks, err := w.blocks(ctx)
	if err != nil {
		return err
	}
	if w.composer, err = stream.NewComposer(w.conn, stream.Config{
		Machine: strings.TrimSuffix(machine, "-machine"), IgnoreShared: true,
	}); err != nil {
		return err
	}
	if err := w.composer.Begin(blocks); err != nil {
		return err
	}
	if err := w.ahead.send(w.composer.Pages); err != nil {
		return err
	}
	if err := w.composer.Ping(pingAhead); err != nil {
		return fmt.Errorf("cannot send ahead what is not shared: %w", err)
	}
	return h.target.unlessItEnds(ctx, "while it loaded what is not shared", w.awaitPong)
}

// open makes the channel.
func (w *deviceWay) open(ctx context.Context) (err error) {
	if w.conn, err = w.h.target.channel(ctx, sendBuffer); err != nil {
		return err
	}
	w.answers = stream.NewReturnPath(w.conn)
	return nil
}

// blocks is the table of RAM blocks as a migration of the source would send it, and prepares the mirror of those that
// are not shared.
func (w *deviceWay) blocks(ctx context.Context) ([]stream.Block, error) {
	h := w.h
	list, err := h.cfg.Source.Monitor.QueryRAMBlocks(ctx)
	if err != nil {
		return nil, err
	}
	w.table = list
	if w.ahead, err = newMirror(h.cfg.Source.Process.PID()); err != nil {
		return nil, err
	}
	private := slices.DeleteFunc(slices.Clone(list), func(b qmp.RAMBlock) bool { return h.regionOf(b.Name) != nil })
	if err := w.ahead.cover(private); err != nil {
		return nil, err
	}
	var table []stream.Block
	for _, b := range list {
		entry := stream.Block{Name: b.Name, Used: b.Used}
		if h.regionOf(b.Name) != nil {
			entry.Shared = true
			object := h.cfg.Objects[b.Name]
			// The address inside the region's container: QEMU compares it for blocks that it ignores.
			if err := h.cfg.Source.Monitor.QOMGet(ctx, "/objects/"+object+"/"+object+"[0]", "addr", &entry.Addr); err != nil {
				return nil, err
			}
		}
		table = append(table, entry)
	}
	return table, nil
}

func (w *deviceWay) awaitPong(ctx context.Context) error {
	for {
		m, err := w.answers.Next()
		if err != nil {
			return w.noAnswer(ctx, err)
		}
		if m.Type == stream.MessagePong && m.Value == pingAhead {
			return nil
		}
	}
}

// deadline makes reading and writing the channel end with ctx, and gives back what undoes that.
func (w *deviceWay) deadline(ctx context.Context) func() { return endsWith(ctx, w.conn) }

func (w *deviceWay) noAnswer(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return fmt.Errorf("cannot read the target's answer: %w", err)
}

// devicesRoom is set aside for the devices, in bytes: some 30 to 60 KiB for an ordinary guest.
const devicesRoom = 512 << 10

// openSaved makes the file that the source writes its devices into, and gives it to the source beforehand: QEMU reads a command one byte
// at a time, some 3 µs each, so that a short name is a shorter pause.
func (w *deviceWay) openSaved(ctx context.Context) error {
	h := w.h
	path := filepath.Join(h.cfg.Source.Dir, "devices")
	write, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make the file for the devices: %w", err)
	}
	defer write.Close()
	if w.saved, err = os.Open(path); err != nil {
		return fmt.Errorf("cannot open the file for the devices: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("cannot unlink the file for the devices: %w", err)
	}
	// What the guest's devices need is there before the guest stands, or it does not stand at all.
	if err := unix.Fallocate(int(write.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, devicesRoom); room.Full(err) {
		return room.Explain(h.cfg.Source.Dir, fmt.Errorf("cannot reserve room for the devices: %w", err))
	}
	w.set = firstSet + int64(h.cfg.Number)
	if _, err := h.cfg.Source.Monitor.AddFd(ctx, w.set, channelName, int(write.Fd())); err != nil {
		return fmt.Errorf("cannot give the source the file for its devices: %w", err)
	}
	return nil
}

func (w *deviceWay) switchOver(ctx context.Context) error {
	defer w.deadline(ctx)()
	steps := []step{{name: "stop", do: w.stop}, {name: "save", do: w.save}}
	if w.h.cfg.Rehouse != nil { // before anything is loaded: a device may look into the guest's memory as it is
		steps = append(steps, step{name: "move-memory", do: w.h.moveMemory, undo: w.h.moveMemoryBack})
	}
	return w.h.run(ctx, append(steps, step{name: "load", do: w.load})...)
}

// first stops the guest and in the same write asks for its devices. A guest that stands already stays so.
func (w *deviceWay) first() []qmp.Command {
	if w.h.resume {
		return []qmp.Command{qmp.StopCommand(), w.saveCommand()}
	}
	return []qmp.Command{w.saveCommand()}
}

func (w *deviceWay) stop(ctx context.Context) error {
	if w.h.resume {
		w.h.stopped = time.Now()
	}
	calls, err := w.h.primed.source.Start(ctx)
	if err != nil {
		return err
	}
	w.saving = calls[len(calls)-1]
	if !w.h.resume {
		return nil
	}
	w.h.stopped = calls[0].Sent()
	return calls[0].Wait(ctx, nil)
}

// saveCommand makes the source write its devices and let go of its images, which is what `live` means and what holds if it is not said.
// A guest that stays stopped keeps the images until its QEMU ends: there would be no cont to take them back if the handoff is undone, and
// QEMU 7.2 aborts when it lets go of an image twice (bdrv_inactivate_recurse).
func (w *deviceWay) saveCommand() qmp.Command {
	args := struct {
		Filename string `json:"filename"`
		Live     *bool  `json:"live,omitempty"`
	}{Filename: "/dev/fdset/" + strconv.FormatInt(w.set, 10)}
	if !w.h.resume {
		args.Live = new(bool)
	}
	return qmp.Command{Name: "xen-save-devices-state", Args: args}
}

// save compares what was sent ahead with what it is now, and waits for the devices.
func (w *deviceWay) save(ctx context.Context) error {
	changed := make(map[string]bool)
	if err := w.ahead.send(func(block string, offset uint64, data []byte) error {
		changed[block] = true
		return w.composer.Pages(block, offset, data)
	}); err != nil {
		return err
	}
	if err := w.saving.Wait(ctx, nil); err != nil {
		return w.fullOr(err)
	}
	return w.stillTheSame(ctx, changed)
}

// fullOr is err, or that there is no room for the devices: QEMU says only that it could not write them.
func (w *deviceWay) fullOr(err error) error {
	full, ok := errors.AsType[*vmstate.Error](room.Need(w.h.cfg.Source.Dir, devicesRoom, 0, "save the guest's devices"))
	if !ok || full.Kind != vmstate.Exhausted {
		return err
	}
	full.Words = []string{err.Error()}
	return full
}

// load sends the devices and waits until the target has loaded them.
func (w *deviceWay) load(ctx context.Context) error {
	devices, err := io.ReadAll(w.saved)
	if err != nil {
		return fmt.Errorf("cannot read the devices that the source has saved: %w", err)
	}
	if err := w.composer.Finish(devices, stream.Finish{RunState: w.stateToLoad()}); err != nil {
		return fmt.Errorf("cannot send the devices: %w", err)
	}
	return w.h.target.unlessItEnds(ctx, "while it loaded the devices", func(ctx context.Context) error {
		return migrated(ctx, w.h.ears.target, "target")
	})
}

// stateToLoad is the run state that the target shall show while it stands still.
func (w *deviceWay) stateToLoad() string {
	switch {
	case w.h.resume:
		return string(qmp.RunRunning) // as xen-save-devices-state writes it
	case w.h.runState == string(qmp.RunPostMigrate):
		return string(qmp.RunPaused)
	}
	return w.h.runState
}

// stillTheSame makes sure that nothing has happened to the guest as it was stopped: a reset that it had asked for just before, its end, or
// tables that its firmware has made larger. Those are written anew when they grow, so that the source is asked for sizes only where the content of
// a block that can grow has changed.
func (w *deviceWay) stillTheSame(ctx context.Context, changed map[string]bool) error {
	if err := w.quietSinceStop(); err != nil {
		return err
	}
	if !slices.ContainsFunc(w.table, func(b qmp.RAMBlock) bool { return b.Used != b.Total && changed[b.Name] }) {
		return nil
	}
	list, err := w.h.cfg.Source.Monitor.QueryRAMBlocks(ctx)
	if err != nil {
		return err
	}
	return w.sameBlocks(list)
}

// sameBlocks compares the source's blocks with what the target has been told of them.
func (w *deviceWay) sameBlocks(now []qmp.RAMBlock) error {
	if len(now) != len(w.table) {
		return vmstate.Errorf(vmstate.Conflict, "cannot hand over: the guest has %d RAM blocks, it had %d", len(now), len(w.table)).With("ask again")
	}
	for i, b := range now {
		was := w.table[i]
		if b.Name != was.Name || b.Used != was.Used || b.Total != was.Total || b.Host && was.Host && b.HVA != was.HVA {
			return vmstate.Errorf(vmstate.Conflict, "cannot hand over: RAM block %s of %d bytes has become %s of %d, as when the guest starts anew",
				was.Name, was.Used, b.Name, b.Used).With("ask again")
		}
	}
	return nil
}

// quietSinceStop looks through the events that have come by the time that the devices are saved.
func (w *deviceWay) quietSinceStop() error {
	reset := false
	rest(w.h.ears.source, func(e qmp.Event) {
		w.h.note(e)
		if e.Name == qmp.EventReset { // before the stop it is over and done
			reset = reset || !w.h.resume || !w.h.qemuStop.IsZero()
		}
	})
	if reset {
		return disturbed(qmp.EventReset)
	}
	return w.h.stoodStill()
}

// settle has nothing to do: the source is in no migration.
func (w *deviceWay) settle(context.Context) error { return nil }

// release lets the source let go of the file. QEMU before 9.1 does so only while the guest runs.
func (w *deviceWay) release(ctx context.Context) error {
	if w.set == 0 {
		return nil
	}
	return w.h.cfg.Source.Monitor.RemoveFd(ctx, w.set)
}

// takeBackDevices is release for a handoff whose number nobody remembers: it takes away each set of descriptors that bears qlive's mark.
func takeBackDevices(ctx context.Context, monitor *qmp.Client) error {
	var sets []struct {
		ID  int64 `json:"fdset-id"`
		Fds []struct {
			Opaque string `json:"opaque"`
		} `json:"fds"`
	}
	err := monitor.Do(ctx, "query-fdsets", nil, &sets)
	for _, set := range sets {
		if len(set.Fds) > 0 && set.Fds[0].Opaque == channelName {
			err = errors.Join(err, monitor.RemoveFd(ctx, set.ID))
		}
	}
	return err
}

func (w *deviceWay) close() {
	if w.conn != nil {
		w.conn.Close()
	}
	if w.ahead != nil {
		w.ahead.close()
	}
	if w.saved != nil {
		w.saved.Close()
	}
	w.h.ears.close(w.h.note)
}

package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"qlive/vmstate/stream"
)

// The floors are the bare clients that do the least that works, one for each way to switch, in the product's order of
// steps: channel, return path, -S, stop, move, cont. They have no daemon, no journal, no REST, no checks and no undo.

// channelBytes is what the migration channel holds, so that a QEMU never waits for the other to read.
const channelBytes = 32 << 20

// capabilities are set on both sides by the floors.
const capabilities = `{"execute":"migrate-set-capabilities","arguments":{"capabilities":[` +
	`{"capability":"events","state":true},{"capability":"return-path","state":true},{"capability":"x-ignore-shared","state":true}]}}`

const unlimited = `{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":0}}`

const (
	cmdGetfd    = `{"execute":"getfd","arguments":{"fdname":"channel"}}`
	cmdIncoming = `{"execute":"migrate-incoming","arguments":{"uri":"fd:channel"}}`
	cmdMigrate  = `{"execute":"migrate","arguments":{"uri":"fd:channel"}}`
	cmdStop     = `{"execute":"stop"}`
	cmdCont     = `{"execute":"cont"}`
)

// channel is a connected pair of sockets.
func channel() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a channel: %w", err)
	}
	for _, fd := range fds {
		if e := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, channelBytes); e != nil && err == nil {
			err = fmt.Errorf("cannot make a channel that holds %d bytes: %w", channelBytes, e)
		}
	}
	a, b = os.NewFile(uintptr(fds[0]), "channel"), os.NewFile(uintptr(fds[1]), "channel")
	if err != nil {
		a.Close()
		b.Close()
	}
	return a, b, err
}

// prepareTarget starts a target on the guest's RAM and sets both sides up.
func prepareTarget(ctx context.Context, g *bareGuest, version string, more ...string) (*seat, error) {
	target, err := g.target(ctx, version, g.at.ram, more...)
	if err != nil {
		return nil, err
	}
	for _, s := range []*seat{g.at, target} {
		for _, cmd := range []string{capabilities, unlimited} {
			if err := s.qmp.do(cmd, nil); err != nil {
				target.end()
				return nil, err
			}
		}
	}
	return target, nil
}

// stopFirst stops the guest, then lets QEMU migrate.
func stopFirst(ctx context.Context, g *bareGuest, version string) (*seat, pause, error) {
	return byMigration(ctx, g, version, false)
}

// live lets QEMU migrate, which stops the guest itself.
func live(ctx context.Context, g *bareGuest, version string) (*seat, pause, error) {
	return byMigration(ctx, g, version, true)
}

func byMigration(ctx context.Context, g *bareGuest, version string, live bool) (*seat, pause, error) {
	target, err := prepareTarget(ctx, g, version)
	if err != nil {
		return nil, pause{}, err
	}
	var p pause
	if err = connect(g.at, target); err == nil {
		p, err = migrateOver(g.at, target, cmdMigrate, live)
	}
	if err != nil {
		target.end()
		return nil, p, err
	}
	return target, p, nil
}

// connect gives both sides their end of a channel and keeps none.
func connect(source, target *seat) error {
	a, b, err := channel()
	if err != nil {
		return err
	}
	defer a.Close()
	defer b.Close()
	if err := source.qmp.doWith(cmdGetfd, int(a.Fd()), nil); err != nil {
		return err
	}
	if err := target.qmp.doWith(cmdGetfd, int(b.Fd()), nil); err != nil {
		return err
	}
	return target.qmp.do(cmdIncoming, nil)
}

// migrateOver migrates once the target listens. With live set QEMU stops the guest itself.
func migrateOver(source, target *seat, migrate string, live bool) (p pause, err error) {
	if !live {
		p.began = time.Now()
		if err := source.qmp.do(cmdStop, nil); err != nil {
			return p, err
		}
		p.lap("stop")
	}
	if err := source.qmp.do(migrate, nil); err != nil {
		return p, err
	}
	if live {
		stopped, err := source.qmp.await("STOP", named("STOP"))
		if err != nil {
			return p, err
		}
		p.began, p.qemuStop = stopped.qemu, stopped.qemu // not when it was read, which may be late
	} else if e, ok := source.qmp.seen("STOP"); ok {
		p.qemuStop = e.qemu
	}
	if _, err := source.qmp.await("the source's migration", migrated); err != nil {
		return p, err
	}
	if _, err := target.qmp.await("the target's migration", migrated); err != nil {
		return p, err
	}
	p.lap("load")
	return p, p.resume(source, target)
}

// deviceState sends everything but the devices ahead, stops the guest, and sends what has changed and the devices.
func deviceState(ctx context.Context, g *bareGuest, version string) (*seat, pause, error) {
	target, err := prepareTarget(ctx, g, version)
	if err != nil {
		return nil, pause{}, err
	}
	p, err := deviceStateOver(g, target)
	if err != nil {
		target.end()
		return nil, p, err
	}
	return target, p, nil
}

// incoming gives the target its end of a channel and returns the other.
func incoming(target *seat) (*os.File, error) {
	ours, theirs, err := channel()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	if err = target.qmp.doWith(cmdGetfd, int(theirs.Fd()), nil); err == nil {
		err = target.qmp.do(cmdIncoming, nil)
	}
	if err != nil {
		ours.Close()
		return nil, err
	}
	return ours, nil
}

func deviceStateOver(g *bareGuest, target *seat) (p pause, err error) {
	source := g.at
	ours, err := incoming(target)
	if err != nil {
		return p, err
	}
	defer ours.Close()
	c, private, err := sendAhead(source, g.shape.Machine, ours)
	if err != nil {
		return p, err
	}
	saved, save, err := giveFile(source)
	if err != nil {
		return p, err
	}
	defer saved.Close()
	spare := make([]byte, largest(private))

	// QEMU reads a command byte by byte: what can be read while it stops the guest goes with the stop.
	p.began = time.Now()
	if err := source.qmp.send(cmdStop+save, -1); err != nil {
		return p, err
	}
	if err := source.qmp.reply(cmdStop, nil); err != nil {
		return p, err
	}
	p.lap("stop")
	for _, b := range private { // while QEMU saves
		if err := b.changes(source.pid(), spare, c.Pages); err != nil {
			return p, err
		}
	}
	if err := source.qmp.reply(save, nil); err != nil {
		return p, err
	}
	p.lap("save")
	devices, err := io.ReadAll(saved)
	if err != nil {
		return p, err
	}
	if err := c.Finish(devices, stream.Finish{}); err != nil {
		return p, err
	}
	if _, err := target.qmp.await("the target's migration", migrated); err != nil {
		return p, err
	}
	p.lap("load")
	return p, p.resume(source, target)
}

// sendAhead sends what is not shared while the guest runs, and waits until the target has it.
func sendAhead(source *seat, machine string, to io.ReadWriter) (*stream.Composer, []*block, error) {
	table, private, err := blocksOf(source.qmp, source.pid(), ramID)
	if err != nil {
		return nil, nil, err
	}
	c, err := stream.NewComposer(to, stream.Config{Machine: machine, IgnoreShared: true})
	if err != nil {
		return nil, nil, err
	}
	if err := c.Begin(table); err != nil {
		return nil, nil, err
	}
	for _, b := range private {
		if err := b.read(source.pid()); err != nil {
			return nil, nil, err
		}
		if err := c.Pages(b.Name, 0, b.data); err != nil {
			return nil, nil, err
		}
	}
	if err := c.Ping(1); err != nil {
		return nil, nil, err
	}
	if m, err := stream.NewReturnPath(to).Next(); err != nil || m.Type != stream.MessagePong {
		return nil, nil, fmt.Errorf("cannot send ahead what is not shared: the target answers %s: %w", m.Type, err)
	}
	return c, private, nil
}

// giveFile makes a file for the devices, gives it to the source, and returns it with the command that writes them.
func giveFile(source *seat) (saved *os.File, save string, err error) {
	file := filepath.Join(source.dir, "devices")
	theirs, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, "", err
	}
	defer theirs.Close()
	add := `{"execute":"add-fd","arguments":{"fdset-id":1}}`
	if err := source.qmp.doWith(add, int(theirs.Fd()), nil); err != nil {
		return nil, "", err
	}
	saved, err = os.Open(file)
	return saved, `{"execute":"xen-save-devices-state","arguments":{"filename":"/dev/fdset/1"}}`, err
}

func largest(blocks []*block) (n int) {
	for _, b := range blocks {
		n = max(n, len(b.data))
	}
	return n
}

// deviceStateBare sends the devices as QEMU has written them, and nothing else: firmware and video memory are lost, so
// that the guest could not start anew in the target. It shows what composing the stream costs. Once the guest runs, what was
// lost is put back, for the sake of the next handoff.
func deviceStateBare(ctx context.Context, g *bareGuest, version string) (*seat, pause, error) {
	target, err := prepareTarget(ctx, g, version, "-global", "migration.send-configuration=off")
	if err != nil {
		return nil, pause{}, err
	}
	p, err := bareOver(g.at, target)
	if err == nil {
		err = restoreFrom(g.at, target)
	}
	if err != nil {
		target.end()
		return nil, p, err
	}
	return target, p, nil
}

func bareOver(source, target *seat) (p pause, err error) {
	ours, err := incoming(target)
	if err != nil {
		return p, err
	}
	defer ours.Close()
	saved := filepath.Join(source.dir, "devices")
	save := fmt.Sprintf(`{"execute":"xen-save-devices-state","arguments":{"filename":%q,"live":true}}`, saved)

	p.began = time.Now()
	if err := source.qmp.do(cmdStop, nil); err != nil {
		return p, err
	}
	p.lap("stop")
	if err := source.qmp.do(save, nil); err != nil {
		return p, err
	}
	p.lap("save")
	devices, err := os.ReadFile(saved)
	if err != nil {
		return p, err
	}
	if _, err := ours.Write(devices); err != nil {
		return p, err
	}
	if err := unix.Shutdown(int(ours.Fd()), unix.SHUT_WR); err != nil {
		return p, err
	}
	if _, err := target.qmp.await("the target's migration", migrated); err != nil {
		return p, err
	}
	p.lap("load")
	return p, p.resume(source, target)
}

func restoreFrom(source, target *seat) error {
	_, private, err := blocksOf(source.qmp, source.pid(), ramID)
	if err != nil {
		return err
	}
	for _, b := range private {
		if err := b.read(source.pid()); err != nil {
			return err
		}
	}
	return restore(target.qmp, target.pid(), ramID, private)
}

package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// What QEMU offers by itself, measured as the floors are.

// plainCapabilities are those of an ordinary migration; a QEMU may still have others from the handoff that brought the guest.
const plainCapabilities = `{"execute":"migrate-set-capabilities","arguments":{"capabilities":[` +
	`{"capability":"events","state":true},{"capability":"return-path","state":true},{"capability":"x-ignore-shared","state":false}]}}`

// precopy copies the guest's RAM into new memory while the guest runs, over a local socket.
func precopy(ctx context.Context, g *bareGuest, version string) (*seat, pause, error) {
	return precopyWith(ctx, g, version, unlimited)
}

// precopyTuned does so until what is left can be copied in 5 ms.
func precopyTuned(ctx context.Context, g *bareGuest, version string) (*seat, pause, error) {
	return precopyWith(ctx, g, version, `{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":0,"downtime-limit":5}}`)
}

func precopyWith(ctx context.Context, g *bareGuest, version, parameters string) (*seat, pause, error) {
	ram, err := memfd(g.shape.ramBytes(), g.shape.pageBytes())
	if err != nil {
		return nil, pause{}, err
	}
	target, err := g.target(ctx, version, ram)
	if err != nil {
		_ = ram.Close()
		return nil, pause{}, err
	}
	for _, s := range []*seat{g.at, target} {
		for _, cmd := range []string{plainCapabilities, parameters} {
			if err == nil {
				err = s.qmp.do(cmd, nil)
			}
		}
	}
	// A socket with buffers of the usual size: what is in them when the guest is stopped is still to be loaded.
	uri := fmt.Sprintf(`{"uri":"unix:%s"}`, filepath.Join(target.dir, "migration"))
	if err == nil {
		err = target.qmp.do(`{"execute":"migrate-incoming","arguments":`+uri+`}`, nil)
	}
	var p pause
	if err == nil {
		p, err = migrateOver(g.at, target, `{"execute":"migrate","arguments":`+uri+`}`, true)
	}
	if err != nil {
		target.end()
		_ = ram.Close()
		return nil, p, err
	}
	return target, p, nil
}

// auxShare is what a machine must have been started with for cpr-transfer.
const auxShare = ",aux-ram-share=on"

// cpr lets QEMU pass the descriptors of all its memory to a target, which has no monitor until it has them.
func cpr(ctx context.Context, g *bareGuest, version string) (*seat, pause, error) {
	names := filepath.Join(g.dir, fmt.Sprintf("cpr%d", g.gen))
	channel := func(kind, suffix string) string {
		return fmt.Sprintf(`{"channel-type":%q,"addr":{"transport":"socket","type":"unix","path":%q}}`, kind, names+suffix)
	}
	target, err := g.start(version, g.at.ram, "-S", "-incoming", "defer", "-incoming", channel("cpr", ".cpr"))
	if err != nil {
		return nil, pause{}, err
	}
	p, err := func() (p pause, err error) {
		if err := target.wait(ctx, func() error { return listening(names + ".cpr") }); err != nil {
			return p, err
		}
		for _, cmd := range []string{plainCapabilities, unlimited,
			`{"execute":"migrate-set-parameters","arguments":{"mode":"cpr-transfer"}}`,
			`{"execute":"migrate","arguments":{"channels":[` + channel("main", ".main") + "," + channel("cpr", ".cpr") + `]}}`,
		} {
			if err := g.at.qmp.do(cmd, nil); err != nil {
				return p, err
			}
		}
		if target.qmp, err = target.monitor(ctx); err != nil {
			return p, err
		}
		if err := target.qmp.do(plainCapabilities, nil); err != nil {
			return p, err
		}
		return cprOver(g.at, target, names+".main")
	}()
	_ = os.Remove(names + ".cpr")
	_ = os.Remove(names + ".main")
	if err != nil {
		target.end()
		return nil, p, err
	}
	return target, p, nil
}

// listening is nil once somebody listens at the path. To connect, which would tell too, is for the source alone.
func listening(path string) error {
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return err
	}
	const flags, accepts = 3, "00010000" // __SO_ACCEPTCON
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > flags && f[flags] == accepts && f[len(f)-1] == path {
			return nil
		}
	}
	return fmt.Errorf("nobody listens at %s", path)
}

// cprOver makes the target listen, upon which the source stops the guest and sends its devices.
func cprOver(source, target *seat, path string) (p pause, err error) {
	if err := target.qmp.do(fmt.Sprintf(`{"execute":"migrate-incoming","arguments":{"uri":"unix:%s"}}`, path), nil); err != nil {
		return p, err
	}
	stopped, err := source.qmp.await("STOP", named("STOP"))
	if err != nil {
		return p, err
	}
	p.began, p.qemuStop = stopped.qemu, stopped.qemu
	if _, err := source.qmp.await("the source's migration", migrated); err != nil {
		return p, err
	}
	if _, err := target.qmp.await("the target's migration", migrated); err != nil {
		return p, err
	}
	p.lap("load")
	return p, p.resume(source, target)
}

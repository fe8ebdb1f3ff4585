package postcopy

import (
	"context"
	"fmt"

	"qlive/integration/postcopy/stranger"
	"qlive/internal/qmp"
)

// byHand is what somebody would write who has read QEMU's documentation: both sides told of postcopy and release-ram, a unix socket, no limit on
// bandwidth, and postcopy as soon as the migration has begun. It checks nothing.
func byHand(ctx context.Context, g *stranger.Guest, m *stranger.Move) error {
	side, err := m.StartTarget(ctx)
	if err != nil {
		return err
	}
	source, target := g.Source.Monitor, side.Monitor
	for _, c := range []*qmp.Client{source, target} {
		on := map[string]bool{qmp.CapEvents: true, qmp.CapReturnPath: true, qmp.CapPostcopyRAM: true, qmp.CapReleaseRAM: true}
		if err := c.MigrateSetCapabilities(ctx, on); err != nil {
			return err
		}
	}
	if err := source.MigrateSetParameters(ctx, qmp.MigrateParameters{MaxBandwidth: new(int64), MaxPostcopyBandwidth: new(int64)}); err != nil {
		return err
	}
	uri := "unix:" + g.Path("channel")
	if err := target.MigrateIncoming(ctx, uri, nil); err != nil {
		return err
	}
	if err := target.Cont(ctx); err != nil { // as if it had been started without -S
		return err
	}
	ended := target.Subscribe(qmp.EventMigration)
	defer ended.Close()
	calls, err := source.StartAll(ctx, qmp.MigrateCommand(uri), qmp.Command{Name: "migrate-start-postcopy"})
	if err != nil {
		return err
	}
	for _, c := range calls {
		if err := c.Wait(ctx, nil); err != nil {
			return err
		}
	}
	e, err := ended.Until(ctx, func(e qmp.Event) bool { return e.MigrationStatus().Ended() })
	if err == nil && e.MigrationStatus() != qmp.MigrationCompleted {
		err = fmt.Errorf("cannot move the guest by hand: the migration has %s", e.MigrationStatus())
	}
	return err
}

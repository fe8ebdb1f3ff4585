package qmp

import (
	"cmp"
	"context"
	"slices"
)

// MigrationStatus is how far a migration is, in QEMU's words. A state that is not known here is one in progress.
type MigrationStatus string

// The states of a migration.
const (
	MigrationNone           MigrationStatus = "none"
	MigrationSetup          MigrationStatus = "setup"
	MigrationActive         MigrationStatus = "active"
	MigrationPreSwitchover  MigrationStatus = "pre-switchover"
	MigrationDevice         MigrationStatus = "device"
	MigrationPostcopyActive MigrationStatus = "postcopy-active"
	MigrationPostcopyDevice MigrationStatus = "postcopy-device" // since 10.2: the target loads the devices
	MigrationPostcopyPaused MigrationStatus = "postcopy-paused"
	MigrationCancelling     MigrationStatus = "cancelling"
	MigrationCancelled      MigrationStatus = "cancelled"
	MigrationFailed         MigrationStatus = "failed"
	MigrationCompleted      MigrationStatus = "completed"
)

// Ended tells whether a migration in this state goes no further by itself.
func (s MigrationStatus) Ended() bool {
	return s == MigrationCompleted || s == MigrationFailed || s == MigrationCancelled
}

// Migration is the migration that a QEMU takes part in, either way, or has last taken part in.
type Migration struct {
	Status         MigrationStatus `json:"status"` // none if there was no migration
	ErrorDesc      string          `json:"error-desc"`
	BlockedReasons []string        `json:"blocked-reasons"` // what forbids a migration now
	RAM            MigrationRAM    `json:"ram"`
	TotalTime      int64           `json:"total-time"` // ms
	SetupTime      int64           `json:"setup-time"` // ms
	Downtime       int64           `json:"downtime"`   // ms
}

// MigrationRAM counts, in bytes unless it says so, RAM blocks that are not ignored; all are 0 before a migration is set up.
type MigrationRAM struct {
	Total       int64 `json:"total"`
	Transferred int64 `json:"transferred"`
	Remaining   int64 `json:"remaining"`
	Passes      int64 `json:"dirty-sync-count"` // times that QEMU has looked for what the guest has changed: one at the beginning of each round
	// Of a migration under way, over the last 100 ms or more: what is sent, in Mbit/s, and the pages of 4 KiB (page-size) that the guest has changed, per second.
	Mbps           float64 `json:"mbps"`
	DirtyPagesRate int64   `json:"dirty-pages-rate"`
	Normal         int64   `json:"normal"`            // pages that were sent and no zeroes
	Duplicate      int64   `json:"duplicate"`         // pages that were sent and are zeroes
	Requests       int64   `json:"postcopy-requests"` // for pages, by the target
}

// QueryMigrate asks how far the migration is.
func (c *Client) QueryMigrate(ctx context.Context) (Migration, error) {
	m, err := ask[Migration](ctx, c, "query-migrate", nil)
	m.Status = cmp.Or(m.Status, MigrationNone)
	return m, err
}

// Names of migration capabilities that the code sets.
const (
	CapEvents            = "events"
	CapReturnPath        = "return-path"
	CapIgnoreShared      = "x-ignore-shared"
	CapLateBlockActivate = "late-block-activate"
	CapPostcopyRAM       = "postcopy-ram"
	CapReleaseRAM        = "release-ram"
)

type capabilityState struct {
	Capability string `json:"capability"`
	State      bool   `json:"state"`
}

type migrateCapabilitiesArgs struct {
	Capabilities []capabilityState `json:"capabilities"`
}

// MigrateSetCapabilities switches migration capabilities; those not named stay as they are. QEMU refuses a name that it
// does not know, and then sets none.
func (c *Client) MigrateSetCapabilities(ctx context.Context, capabilities map[string]bool) error {
	args := migrateCapabilitiesArgs{Capabilities: make([]capabilityState, 0, len(capabilities))}
	for name, state := range capabilities {
		args.Capabilities = append(args.Capabilities, capabilityState{name, state})
	}
	slices.SortFunc(args.Capabilities, func(a, b capabilityState) int { return cmp.Compare(a.Capability, b.Capability) })
	return c.run(ctx, Command{"migrate-set-capabilities", args})
}

// QueryMigrateCapabilities tells for every capability that QEMU knows whether it is on.
func (c *Client) QueryMigrateCapabilities(ctx context.Context) (map[string]bool, error) {
	list, err := ask[[]capabilityState](ctx, c, "query-migrate-capabilities", nil)
	if err != nil {
		return nil, err
	}
	capabilities := make(map[string]bool, len(list))
	for _, entry := range list {
		capabilities[entry.Capability] = entry.State
	}
	return capabilities, nil
}

// Modes of a migration.
const (
	MigModeNormal      = "normal"
	MigModeCPRTransfer = "cpr-transfer"
)

// MigrateParameters are the parameters of migrations that the code uses; nil leaves one as it is.
type MigrateParameters struct {
	MaxBandwidth         *int64  `json:"max-bandwidth,omitempty"`          // bytes/s, 0 for no limit
	MaxPostcopyBandwidth *int64  `json:"max-postcopy-bandwidth,omitempty"` // bytes/s, 0 for no limit
	DowntimeLimit        *int64  `json:"downtime-limit,omitempty"`         // ms
	AnnounceRounds       *int64  `json:"announce-rounds,omitempty"`        // 0 for no announcement of network cards
	Mode                 *string `json:"mode,omitempty" since:"8.2"`       // normal, cpr-reboot, cpr-transfer (10.0), …
}

// SetParametersCommand sets the parameters that are not nil. For StartAll.
func SetParametersCommand(p MigrateParameters) Command { return Command{"migrate-set-parameters", p} }

// MigrateSetParameters sets the parameters that are not nil.
func (c *Client) MigrateSetParameters(ctx context.Context, p MigrateParameters) error {
	return c.run(ctx, SetParametersCommand(p))
}

// QueryMigrateParameters reads the parameters; those that QEMU does not know stay nil.
func (c *Client) QueryMigrateParameters(ctx context.Context) (MigrateParameters, error) {
	return ask[MigrateParameters](ctx, c, "query-migrate-parameters", nil)
}

type migrateArgs struct {
	URI string `json:"uri"`
}

// MigrateCommand starts an outgoing migration. For StartAll.
func MigrateCommand(uri string) Command { return Command{"migrate", migrateArgs{URI: uri}} }

// Migrate starts an outgoing migration, such as to "fd:NAME" given by Getfd. It returns once that is under way; how it
// ends is told by the event MIGRATION and by QueryMigrate.
func (c *Client) Migrate(ctx context.Context, uri string) error {
	return c.run(ctx, MigrateCommand(uri))
}

// migrateCPRArgs are those of a migration in mode cpr-transfer. Both addresses are of sockets, and of the type unix. It is not
// among the Surface, since QEMU before 8.2 requires a URI.
type migrateCPRArgs struct {
	Channels []migrationChannel `json:"channels"`
}

type migrationChannel struct {
	Type string        `json:"channel-type"`
	Addr unixMigration `json:"addr"`
}

type unixMigration struct {
	Transport string `json:"transport"`
	Type      string `json:"type"`
	Path      string `json:"path"`
}

// MigrateCPR starts an outgoing migration in mode cpr-transfer, which QEMU has since 10.0. It returns once the descriptors have been sent to whoever
// listens at the path cpr. Once he hangs up, QEMU connects to main, stops the guest, and sends its devices there.
func (c *Client) MigrateCPR(ctx context.Context, main, cpr string) error {
	at := func(kind, path string) migrationChannel {
		return migrationChannel{kind, unixMigration{Transport: "socket", Type: "unix", Path: path}}
	}
	return c.run(ctx, Command{"migrate", migrateCPRArgs{[]migrationChannel{at("main", main), at("cpr", cpr)}}})
}

type migrateIncomingArgs struct {
	URI         string `json:"uri"`
	ExitOnError *bool  `json:"exit-on-error,omitempty" since:"9.1"`
}

// MigrateIncoming makes a QEMU that was started with -incoming defer listen. By default it exits if loading fails; with
// exitOnError false, which QEMU has since 9.1, it stays and tells the error. Nil leaves that to QEMU.
func (c *Client) MigrateIncoming(ctx context.Context, uri string, exitOnError *bool) error {
	return c.run(ctx, Command{"migrate-incoming", migrateIncomingArgs{URI: uri, ExitOnError: exitOnError}})
}

// MigrateCancel asks for the end of an outgoing migration. A source that was running at its start goes on by itself.
func (c *Client) MigrateCancel(ctx context.Context) error {
	return c.run(ctx, Command{Name: "migrate_cancel"})
}

// MigrateStartPostcopy switches a running outgoing migration to postcopy.
func (c *Client) MigrateStartPostcopy(ctx context.Context) error {
	return c.run(ctx, Command{Name: "migrate-start-postcopy"})
}

type xenSaveArgs struct {
	Filename string `json:"filename"`
	Live     bool   `json:"live"`
}

// XenSaveDevicesStateCommand saves the state of all devices. For StartAll, behind StopCommand.
func XenSaveDevicesStateCommand(filename string, live bool) Command {
	return Command{"xen-save-devices-state", xenSaveArgs{filename, live}}
}

// XenSaveDevicesState writes the state of all devices but RAM to a file, which QEMU creates or truncates. It works
// without Xen. With live, a guest that was stopped before also lets go of its images, until the next cont; a guest that
// was running is stopped for it, and runs again afterwards.
func (c *Client) XenSaveDevicesState(ctx context.Context, filename string, live bool) error {
	return c.run(ctx, XenSaveDevicesStateCommand(filename, live))
}

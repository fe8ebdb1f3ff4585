package qmp_test

import (
	"slices"
	"testing"

	"qlive/internal/qmp"
)

// Every command, argument, returned member and event is spelled as the binary spells it, and what is marked as newer is
// in the newer ones only.
func TestSurfaceMatchesTheSchema(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		q := start(t, version, guestRAM(t))
		schema, err := q.QuerySchema(within(t, patience))
		if err != nil {
			t.Fatal(err)
		}
		for _, difference := range schema.Check(q.Version(), qmp.Surface(), qmp.Events()) {
			t.Error(difference)
		}

		modern := q.Version().AtLeast(9, 1)
		if got := schema.HasArgument("migrate-incoming", "exit-on-error"); got != modern {
			t.Errorf("migrate-incoming has exit-on-error: %t, want %t", got, modern)
		}
		if got := schema.HasArgument("migrate", "channels", "channel-type"); got != modern {
			t.Errorf("migrate has channels: %t, want %t", got, modern)
		}
		values := schema.ArgumentValues("migrate-set-capabilities", "capabilities", "capability")
		for _, capability := range []string{qmp.CapEvents, qmp.CapReturnPath, qmp.CapIgnoreShared,
			qmp.CapLateBlockActivate, qmp.CapPostcopyRAM, qmp.CapReleaseRAM} {
			if !slices.Contains(values, capability) {
				t.Errorf("capability %s is not among %v", capability, values)
			}
		}
		statuses := schema.ArgumentValues("migrate-continue", "state")
		for _, status := range []qmp.MigrationStatus{qmp.MigrationNone, qmp.MigrationSetup, qmp.MigrationActive,
			qmp.MigrationPreSwitchover, qmp.MigrationDevice, qmp.MigrationPostcopyActive, qmp.MigrationPostcopyPaused,
			qmp.MigrationCancelling, qmp.MigrationCancelled, qmp.MigrationFailed, qmp.MigrationCompleted} {
			if !slices.Contains(statuses, string(status)) {
				t.Errorf("migration status %s is not among %v", status, statuses)
			}
		}
		if schema.HasCommand("x-frobnicate") || schema.HasEvent("FROBNICATED") || schema.HasArgument("stop", "x") ||
			schema.HasArgument("x-frobnicate", "x") || schema.ArgumentValues("getfd", "fdname") != nil {
			t.Error("the schema is said to have what it has not")
		}
	})
}

// The comparison notices each sort of mistake.
func TestSchemaCheckNotices(t *testing.T) {
	type misspelt struct {
		Total int `json:"totall"`
	}
	q := start(t, "7.2.22", guestRAM(t))
	schema, err := q.QuerySchema(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		use  qmp.Use
		want string
	}{
		"no such command": {qmp.Use{Command: "x-frobnicate"}, "x-frobnicate: no such command"},
		"no such argument": {qmp.Use{Command: "getfd", Args: struct {
			Fdname string `json:"fdname"`
			Name   string `json:"name"`
		}{}}, "getfd arguments.name: in QEMU's schema: false; expected: true"},
		"required argument left out": {qmp.Use{Command: "getfd"}, "getfd arguments.fdname: QEMU requires it"},
		"required argument may be left out": {qmp.Use{Command: "getfd", Args: struct {
			Fdname string `json:"fdname,omitempty"`
		}{}}, "getfd arguments.fdname: QEMU requires it"},
		"argument of another type": {qmp.Use{Command: "getfd", Args: struct {
			Fdname int `json:"fdname"`
		}{}}, "getfd arguments.fdname: int here, string in QEMU"},
		"member deep within": {qmp.Use{Command: "query-migrate", Return: struct {
			RAM misspelt `json:"ram"`
		}{}}, "query-migrate returns.ram.totall: in QEMU's schema: false; expected: true"},
		"list for an object": {qmp.Use{Command: "query-migrate", Return: []misspelt{}},
			"query-migrate returns: array here, object in QEMU"},
		"known earlier than said": {qmp.Use{Command: "query-status", Return: struct {
			Running bool `json:"running" since:"10.0"`
		}{}}, "query-status returns.running: in QEMU's schema: true; expected: false"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := schema.Check(q.Version(), []qmp.Use{tt.use}, nil)
			if len(got) != 1 || got[0] != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if got := schema.Check(q.Version(), nil, []string{"FROBNICATED"}); len(got) != 1 {
		t.Errorf("an unknown event: %q", got)
	}
}

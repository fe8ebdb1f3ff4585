package qmp_test

import (
	"testing"

	"qlive/internal/qmp"
)

// Each version executes a command that was sent ahead when it has the last byte of it, and forgets one that is dropped.
func TestAhead(t *testing.T) {
	eachVersion(t, func(t *testing.T, version string) {
		q := start(t, version, guestRAM(t))
		ctx := within(t, patience)
		for range 3 {
			a, err := q.Ahead(ctx, qmp.Command{Name: "cont"})
			if err != nil {
				t.Fatal(err)
			}
			a.Drop(ctx)
			expect(t, "QueryStatus")(q.QueryStatus(ctx))(qmp.Status{Running: false, Status: qmp.RunPrelaunch})
		}
		a, err := q.Ahead(ctx, qmp.Command{Name: "cont"}, qmp.Command{Name: "query-status"})
		if err != nil {
			t.Fatal(err)
		}
		calls, err := a.Start(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var state qmp.Status
		if err := calls[1].Wait(ctx, &state); err != nil || state.Status != qmp.RunRunning {
			t.Errorf("after cont: %+v, %v", state, err)
		}
		for range 3 {
			a, err := q.Ahead(ctx, qmp.StopCommand())
			if err != nil {
				t.Fatal(err)
			}
			a.Drop(ctx)
			expect(t, "QueryStatus")(q.QueryStatus(ctx))(qmp.Status{Running: true, Status: qmp.RunRunning})
		}
	})
}

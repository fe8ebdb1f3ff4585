package restapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"qlive/vmstate"
)

// maxWait is the longest ?wait=.
const maxWait = time.Hour

// WaitQuery says how long a request may wait for a migration's end.
type WaitQuery struct {
	Wait string `query:"wait" doc:"wait so long for the migration's end, such as 30s; at most 1h" example:"30s"`
}

func (q WaitQuery) duration() (time.Duration, error) {
	if q.Wait == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(q.Wait)
	if err != nil || d < 0 || d > maxWait {
		return 0, vmstate.Errorf(vmstate.Invalid, "cannot wait %q", q.Wait).With("write a duration such as 500ms, 30s or 5m, at most 1h")
	}
	return d, nil
}

// Resolve refuses a wait that is none.
func (q *WaitQuery) Resolve(huma.Context) []error {
	if _, err := q.duration(); err != nil {
		return faultAt("query.wait", err)
	}
	return nil
}

// MigrationPath is a path that names a migration.
type MigrationPath struct {
	ID string `path:"id" maxLength:"100" doc:"id of the migration"`
}

func (a *api) migrationRoutes() {
	tags := []string{"Migrations"}
	waited := map[string]*huma.Response{
		"200": {Description: "Waited for, and completed", Content: jsonOf[vmstate.Migration](a)},
		"409": {Description: "Waited for, and ended otherwise: result is the migration", Content: problemContent(a)},
	}
	add(a, huma.Operation{OperationID: "migrate", Method: http.MethodPost, Path: "/migrations", Summary: "Hand a running VM over to another QEMU", Tags: tags,
		Description:   "Accepts the migration, which runs on by itself. With wait: 200 once completed, 409 if it ended otherwise, 202 if it goes on, or holds in prepared as asked.",
		DefaultStatus: http.StatusAccepted, Responses: waited}, a.migrate)
	add(a, huma.Operation{OperationID: "rollback-vm", Method: http.MethodPost, Path: "/vms/{vm}/rollback", Summary: "Hand a VM back to the QEMU that it came from", Tags: tags,
		Description: "Accepts a migration, as POST /migrations does.", DefaultStatus: http.StatusAccepted, Responses: waited}, a.rollback)
	add(a, huma.Operation{OperationID: "list-migrations", Method: http.MethodGet, Path: "/migrations", Summary: "List migrations, newest first", Tags: tags}, a.listMigrations)
	add(a, huma.Operation{OperationID: "get-migration", Method: http.MethodGet, Path: "/migrations/{id}", Summary: "Show a migration", Tags: tags,
		Description: "With wait: answers when it has ended, or as it is when the time is up."}, a.getMigration)
	add(a, huma.Operation{OperationID: "cancel-migration", Method: http.MethodDelete, Path: "/migrations/{id}", Summary: "Cancel a migration", Tags: tags,
		Description: "409 once it is switching: then it can no longer be stopped.", DefaultStatus: http.StatusAccepted}, a.migrationVerb(func(ctx context.Context, id string) (vmstate.Migration, error) { return a.svc.CancelMigration(ctx, id) }))
	add(a, huma.Operation{OperationID: "continue-migration", Method: http.MethodPost, Path: "/migrations/{id}/continue", Summary: "Go on from prepared", Tags: tags,
		DefaultStatus: http.StatusAccepted}, a.migrationVerb(func(ctx context.Context, id string) (vmstate.Migration, error) {
		return a.svc.ContinueMigration(ctx, id)
	}))
	add(a, huma.Operation{OperationID: "get-trace", Method: http.MethodGet, Path: "/migrations/{id}/trace", Summary: "Show where the time of a migration went", Tags: tags,
		Description: "JSON in Chrome's trace format; opens in Perfetto.",
		Responses:   map[string]*huma.Response{"200": {Description: "The trace", Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{}}}}}}, a.getTrace)
}

type migrateInput struct {
	WaitQuery
	Key  string `header:"Idempotency-Key" maxLength:"255" doc:"a request with a key that was used before, within 24 h, gets the same migration"`
	Body vmstate.MigrationSpec
}

func (a *api) migrate(ctx context.Context, in *migrateInput) (*created[vmstate.Migration], error) {
	spec := in.Body
	if err := vmstate.CheckName(spec.VM); err != nil {
		return nil, err
	}
	if spec.Binary != "" && !strings.HasPrefix(spec.Binary, "/") || strings.ContainsRune(spec.Binary, 0) {
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot migrate VM %s to %q: not an absolute path", spec.VM, spec.Binary).
			With("the daemon has another working directory than you: write the path from /")
	}
	return a.accept(ctx, in.WaitQuery, in.Key, spec, func(key vmstate.RequestKey) (vmstate.Migration, error) {
		spec := spec
		spec.Key = key
		return a.svc.Migrate(ctx, spec)
	})
}

type rollbackInput struct {
	VMPath
	WaitQuery
}

// Resolve checks both parts.
func (in *rollbackInput) Resolve(ctx huma.Context) []error {
	return append(in.VMPath.Resolve(ctx), in.WaitQuery.Resolve(ctx)...)
}

func (a *api) rollback(ctx context.Context, in *rollbackInput) (*created[vmstate.Migration], error) {
	return a.accept(ctx, in.WaitQuery, "", nil, func(vmstate.RequestKey) (vmstate.Migration, error) { return a.svc.RollbackVM(ctx, in.VM) })
}

// accept begins a migration, or finds the one that key began, and waits for it as asked.
func (a *api) accept(ctx context.Context, q WaitQuery, key string, request any, begin func(vmstate.RequestKey) (vmstate.Migration, error)) (*created[vmstate.Migration], error) {
	wait, err := q.duration()
	if err != nil {
		return nil, err
	}
	said, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	peer := peerOf(ctx)
	if key != "" {
		key = fmt.Sprintf("%s/%s", peer, key) // one user's keys are not another's
	}
	var begun vmstate.Migration
	id, err := a.keys[a.access.Role(peer) == vmstate.RoleAdmin].once(ctx, key, string(said), func() (string, error) {
		mine := vmstate.RequestKey{Key: key, Body: string(said)}
		id, err := a.earlier(mine)
		if id != "" || err != nil {
			return id, err
		}
		begun, err = begin(mine)
		return begun.ID, err
	})
	if err != nil {
		return nil, err
	}
	m, err := a.await(ctx, id, wait, holding)
	if err != nil && begun.ID == id && vmstate.KindOf(err) == vmstate.NotFound {
		m, err = begun, nil // accepted, and not published yet
	}
	if err != nil {
		return nil, err
	}
	out := &created[vmstate.Migration]{Status: http.StatusAccepted, Location: location(ctx, "migrations", id), Body: m}
	if wait == 0 || !m.Phase.Ended() {
		return out, nil
	}
	if m.Phase != vmstate.Completed {
		return nil, ended(m)
	}
	out.Status = http.StatusOK
	return out, nil
}

// earlier finds the migration that a request with this key began before this daemon was started; none has the empty id.
func (a *api) earlier(key vmstate.RequestKey) (string, error) {
	if key.Key == "" {
		return "", nil
	}
	for _, m := range a.svc.Snapshot().Migrations {
		if m.Spec == nil || m.Spec.Key.Key != key.Key || a.opts.Now().Sub(m.StartedAt) > keyLife {
			continue
		}
		if m.Spec.Key != key {
			return "", usedAgain(key.Key)
		}
		return m.ID, nil
	}
	return "", nil
}

// holding tells whether m waits in prepared as it was asked to.
func holding(m vmstate.Migration) bool {
	return m.Phase == vmstate.Prepared && m.Spec != nil && m.Spec.Hold
}

// await gives the migration when it has ended or enough says so, or as it is when wait is over or the client has left.
func (a *api) await(ctx context.Context, id string, wait time.Duration, enough func(vmstate.Migration) bool) (vmstate.Migration, error) {
	m, err := a.migration(id)
	if err != nil || wait == 0 {
		return m, err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		sub := a.svc.Subscribe(0)
		// What came before the subscription is seen here, what comes after it by its events.
		m, err = a.watch(ctx, id, sub.Events, timer.C, enough)
		sub.Close()
		if err != errStreamEnded {
			return m, err
		}
		select { // we were too slow, or the daemon is closing: not in a tight loop then
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return m, nil
		}
	}
}

// errStreamEnded: the events broke off before there was an answer.
var errStreamEnded = errors.New("the stream of events ended")

func (a *api) watch(ctx context.Context, id string, events <-chan vmstate.Event, over <-chan time.Time, enough func(vmstate.Migration) bool) (vmstate.Migration, error) {
	for {
		m, err := a.migration(id)
		if err != nil || m.Phase.Ended() || enough(m) {
			return m, err
		}
		select {
		case _, ok := <-events:
			if !ok {
				return m, errStreamEnded
			}
		case <-over:
			return m, nil
		case <-ctx.Done():
			return m, nil
		}
	}
}

type listMigrationsInput struct {
	PageQuery
	VM string `query:"vm" maxLength:"63" doc:"only migrations of this VM"`
}

func (a *api) listMigrations(_ context.Context, in *listMigrationsInput) (*body[list[vmstate.Migration]], error) {
	out := &body[list[vmstate.Migration]]{list[vmstate.Migration]{Items: []vmstate.Migration{}}}
	past := in.Cursor == ""
	for _, m := range a.svc.Snapshot().Migrations {
		if !past {
			past = m.ID == in.Cursor
			continue
		}
		if in.VM != "" && m.VM != in.VM {
			continue
		}
		if n := len(out.Body.Items); n == in.Limit {
			out.Body.NextCursor = out.Body.Items[n-1].ID
			break
		}
		out.Body.Items = append(out.Body.Items, wholeMigration(m))
	}
	if !past {
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot go on from cursor %q: that migration is no longer known", in.Cursor).With("begin again without a cursor")
	}
	return out, nil
}

type getMigrationInput struct {
	MigrationPath
	WaitQuery
}

func (a *api) getMigration(ctx context.Context, in *getMigrationInput) (*body[vmstate.Migration], error) {
	wait, err := in.duration()
	if err != nil {
		return nil, err
	}
	m, err := a.await(ctx, in.ID, wait, func(vmstate.Migration) bool { return false })
	if err != nil {
		return nil, err
	}
	return &body[vmstate.Migration]{m}, nil
}

// migrationVerb is a handler that acts on a migration.
func (a *api) migrationVerb(act func(context.Context, string) (vmstate.Migration, error)) func(context.Context, *MigrationPath) (*created[vmstate.Migration], error) {
	return func(ctx context.Context, in *MigrationPath) (*created[vmstate.Migration], error) {
		m, err := act(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		return &created[vmstate.Migration]{Status: http.StatusAccepted, Location: location(ctx, "migrations", m.ID), Body: wholeMigration(m)}, nil
	}
}

func (a *api) getTrace(_ context.Context, in *MigrationPath) (*trace, error) {
	text, err := a.svc.Trace(in.ID)
	if err != nil {
		return nil, err
	}
	return &trace{ContentType: "application/json", Body: text}, nil
}

type trace struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

// migration finds a migration.
func (a *api) migration(id string) (vmstate.Migration, error) {
	if m, ok := a.svc.Snapshot().Migration(id); ok {
		return wholeMigration(m), nil
	}
	e := vmstate.Errorf(vmstate.NotFound, "cannot find migration %q", id).With("GET /migrations lists the migrations that are still known")
	e.Migration = id
	return vmstate.Migration{}, e
}

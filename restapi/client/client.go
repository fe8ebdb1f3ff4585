package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"

	"qlive/restapi/client/wire"
	"qlive/vmstate"
)

// Version says what answers.
type Version = wire.Version

// Client is a daemon as its callers see it. Make one with New.
type Client struct {
	socket    string
	wire      *wire.Client
	transport *http.Transport
}

// New makes a client for the daemon that listens on the unix socket. It does not connect yet.
func New(socket string) *Client {
	c := &Client{socket: socket}
	c.transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	c.wire = &wire.Client{Server: "http://qlive/v1/", Client: &http.Client{Transport: again{c.transport}}}
	return c
}

// Close gives up the connections that are idle.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Refusal is a problem document as it came.
type Refusal struct {
	vmstate.Problem
	Errors []wire.Fault       `json:"errors,omitempty"`
	Result *vmstate.Migration `json:"result,omitempty"` // that was waited for
}

// Error is the detail.
func (r *Refusal) Error() string { return r.Detail }

// NewKey is a new idempotency key.
func NewKey() string { return rand.Text() }

// get reads an answer that holds a T. It takes what a method of wire returns.
func get[T any](c *Client) func(*http.Response, error) (T, error) {
	return func(resp *http.Response, err error) (T, error) {
		var out T
		if err := c.check(resp, err); err != nil {
			return out, err
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
			return out, c.broken(err)
		}
		return out, nil
	}
}

// done reads an answer that holds nothing.
func (c *Client) done(resp *http.Response, err error) error {
	if err := c.check(resp, err); err != nil {
		return err
	}
	return resp.Body.Close()
}

// check makes an error of a request that failed or was refused. Without one the body is the caller's to close.
func (c *Client) check(resp *http.Response, err error) error {
	if err != nil {
		return c.unreachable(err)
	}
	if resp.StatusCode < 300 {
		return nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return c.broken(err)
	}
	var r Refusal
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err := json.Unmarshal(text, &r); err != nil || kind != "application/problem+json" {
		return vmstate.Errorf(vmstate.Internal, "cannot understand the daemon at %s: %s: %.200s", c.socket, resp.Status, text)
	}
	return &vmstate.Error{Kind: r.Kind(), Step: r.Step, VM: r.VM, Migration: r.Migration, Detail: r.Detail, Remedy: r.Remedy, Words: r.QEMU, Err: &r}
}

func (c *Client) unreachable(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	e := &vmstate.Error{Kind: vmstate.Unavailable, Err: err}
	switch cause := root(err); {
	case errors.Is(err, fs.ErrPermission):
		e.Kind = vmstate.Denied
		e.Detail = fmt.Sprintf("cannot connect to %s: %v", c.socket, cause)
		return e.With("use sudo, or let an administrator add you to the socket's group")
	case errors.Is(err, fs.ErrNotExist):
		e.Detail = fmt.Sprintf("cannot reach the daemon: there is no socket %s", c.socket)
		return e.With("start it with `qlive daemon`, or say where it listens with --socket or QLIVE_SOCKET")
	default:
		e.Detail = fmt.Sprintf("cannot reach the daemon at %s: %v", c.socket, cause)
		return e.With("`qlive doctor` looks for the reason")
	}
}

// root is the last error of the chain: the layers above it only repeat the address.
func root(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

func (c *Client) broken(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return vmstate.Errorf(vmstate.Unavailable, "cannot read the daemon's answer: %w", err).With("try again: it may be restarting")
}

// Version asks what answers.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return get[Version](c)(c.wire.GetVersion(ctx))
}

// Health is how the daemon is; the error is Unavailable while it is degraded.
func (c *Client) Health(ctx context.Context) (vmstate.Health, error) {
	return get[vmstate.Health](c)(c.wire.GetHealth(ctx))
}

// Ready is nil once the daemon serves.
func (c *Client) Ready(ctx context.Context) error {
	return c.done(c.wire.GetReadiness(ctx))
}

// VMs lists all VMs, by name.
func (c *Client) VMs(ctx context.Context) ([]vmstate.VM, error) {
	limit := int64(1000)
	params := wire.ListVmsParams{Limit: &limit}
	vms := []vmstate.VM{}
	for {
		page, err := get[wire.ListVM](c)(c.wire.ListVms(ctx, &params))
		if err != nil {
			return nil, err
		}
		vms = append(vms, page.Items...)
		if params.Cursor = page.NextCursor; params.Cursor == nil {
			return vms, nil
		}
	}
}

// VM shows a VM.
func (c *Client) VM(ctx context.Context, name string) (vmstate.VM, error) {
	return get[vmstate.VM](c)(c.wire.GetVm(ctx, name))
}

// StartVM starts a VM and returns when its QEMU answers.
func (c *Client) StartVM(ctx context.Context, spec vmstate.VMSpec) (vmstate.VM, error) {
	return get[vmstate.VM](c)(c.wire.StartVm(ctx, spec))
}

// StartStoppedVM starts a VM that has stopped, and returns when its QEMU answers.
func (c *Client) StartStoppedVM(ctx context.Context, name string) (vmstate.VM, error) {
	return get[vmstate.VM](c)(c.wire.StartStoppedVm(ctx, name))
}

// RemoveVM powers a VM down, or kills it, and forgets it.
func (c *Client) RemoveVM(ctx context.Context, name string, force bool) error {
	return c.done(c.wire.RemoveVm(ctx, name, &wire.RemoveVmParams{Force: &force}))
}

// ForgetVM lets go of a VM, which runs on.
func (c *Client) ForgetVM(ctx context.Context, name string) error {
	forget := true
	return c.done(c.wire.RemoveVm(ctx, name, &wire.RemoveVmParams{Forget: &forget}))
}

// Pause stops a VM's vCPUs.
func (c *Client) Pause(ctx context.Context, name string) (vmstate.VM, error) {
	return get[vmstate.VM](c)(c.wire.PauseVm(ctx, name))
}

// Resume lets a VM's vCPUs run.
func (c *Client) Resume(ctx context.Context, name string) (vmstate.VM, error) {
	return get[vmstate.VM](c)(c.wire.ResumeVm(ctx, name))
}

// Reset presses a VM's reset button.
func (c *Client) Reset(ctx context.Context, name string) (vmstate.VM, error) {
	return get[vmstate.VM](c)(c.wire.ResetVm(ctx, name))
}

// Powerdown presses a VM's power button.
func (c *Client) Powerdown(ctx context.Context, name string) (vmstate.VM, error) {
	return get[vmstate.VM](c)(c.wire.PowerdownVm(ctx, name, &wire.PowerdownVmParams{}))
}

// Kill ends a VM's QEMU now; the VM stays, stopped.
func (c *Client) Kill(ctx context.Context, name string) (vmstate.VM, error) {
	force := true
	return get[vmstate.VM](c)(c.wire.PowerdownVm(ctx, name, &wire.PowerdownVmParams{Force: &force}))
}

// Undecided tells what is known of a VM whose handoff has failed, and what can be decided of it.
func (c *Client) Undecided(ctx context.Context, name string) (vmstate.Decision, error) {
	return get[vmstate.Decision](c)(c.wire.UndecidedVm(ctx, name))
}

// Resolve decides who goes on with a VM whose handoff has failed: source, target, or discard for nobody.
func (c *Client) Resolve(ctx context.Context, name, to string) (vmstate.VM, error) {
	return get[vmstate.VM](c)(c.wire.ResolveVm(ctx, name, wire.ResolveInputBody{To: wire.ResolveInputBodyTo(to)}))
}

// Tail says which part of a log to read.
type Tail struct {
	Follow bool   // also what will come, until the VM has stopped
	Bytes  *int64 // begin so many before the end; nil for all
}

// Console is what a VM's guest wrote on its serial console. The caller closes it.
func (c *Client) Console(ctx context.Context, name string, tail Tail) (io.ReadCloser, error) {
	return c.stream(c.wire.ReadConsole(ctx, name, &wire.ReadConsoleParams{Follow: &tail.Follow, Tail: tail.Bytes}))
}

// Log is the same for what QEMU wrote on its standard error.
func (c *Client) Log(ctx context.Context, name string, tail Tail) (io.ReadCloser, error) {
	return c.stream(c.wire.ReadLog(ctx, name, &wire.ReadLogParams{Follow: &tail.Follow, Tail: tail.Bytes}))
}

func (c *Client) stream(resp *http.Response, err error) (io.ReadCloser, error) {
	if err := c.check(resp, err); err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Type types on a VM's serial console.
func (c *Client) Type(ctx context.Context, name string, input []byte) error {
	return c.done(c.wire.WriteConsoleWithBody(ctx, name, "application/octet-stream", strings.NewReader(string(input))))
}

// Migrate begins a migration. Asked again with the same key it gives the same one.
func (c *Client) Migrate(ctx context.Context, spec vmstate.MigrationSpec, key string) (vmstate.Migration, error) {
	return get[vmstate.Migration](c)(c.wire.Migrate(ctx, &wire.MigrateParams{IdempotencyKey: &key}, spec))
}

// Rollback begins a migration to the QEMU that the VM came from.
func (c *Client) Rollback(ctx context.Context, name string) (vmstate.Migration, error) {
	return get[vmstate.Migration](c)(c.wire.RollbackVm(ctx, name, nil))
}

// Migrations lists the migrations that are known, newest first: of all VMs if vm is empty.
func (c *Client) Migrations(ctx context.Context, vm string) ([]vmstate.Migration, error) {
	limit := int64(1000)
	params := wire.ListMigrationsParams{Limit: &limit}
	if vm != "" {
		params.Vm = &vm
	}
	migrations := []vmstate.Migration{}
	for {
		page, err := get[wire.ListMigration](c)(c.wire.ListMigrations(ctx, &params))
		if err != nil {
			return nil, err
		}
		migrations = append(migrations, page.Items...)
		if params.Cursor = page.NextCursor; params.Cursor == nil {
			return migrations, nil
		}
	}
}

// Migration shows a migration, at once or, with a wait of up to an hour, when it has ended or the time is up.
func (c *Client) Migration(ctx context.Context, id string, wait time.Duration) (vmstate.Migration, error) {
	params := wire.GetMigrationParams{}
	if wait > 0 {
		text := wait.String()
		params.Wait = &text
	}
	return get[vmstate.Migration](c)(c.wire.GetMigration(ctx, id, &params))
}

// Continue lets a migration that holds go on.
func (c *Client) Continue(ctx context.Context, id string) (vmstate.Migration, error) {
	return get[vmstate.Migration](c)(c.wire.ContinueMigration(ctx, id))
}

// Cancel asks for a migration's end.
func (c *Client) Cancel(ctx context.Context, id string) (vmstate.Migration, error) {
	return get[vmstate.Migration](c)(c.wire.CancelMigration(ctx, id))
}

// Trace is where the time of a migration went, in Chrome's trace format.
func (c *Client) Trace(ctx context.Context, id string) (json.RawMessage, error) {
	return get[json.RawMessage](c)(c.wire.GetTrace(ctx, id))
}

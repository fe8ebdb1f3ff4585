package restapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"qlive/vmstate"
)

type eventsInput struct {
	LastEventID string `header:"Last-Event-ID" doc:"number of the last event seen: what came after it is sent again, or a reset if it is no longer there"`
	After       string `query:"after" doc:"the same for those who cannot set headers"`
	VM          string `query:"vm" maxLength:"63" doc:"only events of this VM"`
}

func (in *eventsInput) after() (uint64, error) {
	for _, text := range []string{in.LastEventID, in.After} {
		if text == "" {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return 0, vmstate.Errorf(vmstate.Invalid, "cannot go on after event %q: not a number", text).With("leave it out to begin with the whole state")
		}
		return n, nil
	}
	return 0, nil
}

func (a *api) eventRoutes() {
	schemaOf[vmstate.State](a)
	op := huma.Operation{OperationID: "watch-events", Method: http.MethodGet, Path: "/events", Summary: "Follow what changes", Tags: []string{"Events"},
		Description: "Server-sent events. Each has an id, an event name (vm, region, migration, health, reset, lost) and as data an Event. " +
			"Without Last-Event-ID the first is a reset, whose data is the whole State. A client that is too slow gets lost as its last and is closed: come back with its last id. " +
			"A comment comes when nothing else has for 15 s.",
		Responses: map[string]*huma.Response{"503": {Description: "As many follow already as may; see Retry-After", Content: problemContent(a)},
			"200": {Description: "The events: each data line is an Event", Content: map[string]*huma.MediaType{"text/event-stream": {Schema: schemaOf[vmstate.Event](a)}}}},
	}
	add(a, op, func(ctx context.Context, in *eventsInput) (*huma.StreamResponse, error) {
		after, err := in.after()
		if err != nil {
			return nil, err
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			r, w := humachi.Unwrap(hc)
			if r.Method == http.MethodHead {
				return
			}
			done, ok := a.follow(r, w, "reader of events")
			if !ok {
				return
			}
			defer done()
			sub := a.svc.Subscribe(after)
			defer sub.Close()
			s := &eventStream{w: w, control: http.NewResponseController(w), timeout: a.opts.WriteTimeout}
			s.run(r.Context(), sub.Events, in.VM, a.opts.Heartbeat)
		}}, nil
	})
}

// follow takes a place for a client that will stay; false if there is none, and then the client has been told.
func (a *api) follow(r *http.Request, w http.ResponseWriter, what string) (done func(), ok bool) {
	peer := peerOf(r.Context())
	done, ok = a.streams.take(peer.String(), a.access.Role(peer) == vmstate.RoleAdmin)
	if !ok {
		w.Header().Set("Retry-After", retryAfter)
		tooMany(what).write(w)
	}
	return done, ok
}

// eventStream writes server-sent events to one client.
type eventStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
}

// run sends events until they or the client end, or the client is too slow.
func (s *eventStream) run(ctx context.Context, events <-chan vmstate.Event, vm string, heartbeat time.Duration) {
	s.w.Header().Set("Content-Type", "text/event-stream")
	if s.send(": qlive\n\n") != nil { // the headers leave before there is an event
		return
	}
	defer s.control.SetWriteDeadline(time.Time{}) //nolint:errcheck // for the connection's next request, if it has one
	idle := time.NewTicker(heartbeat)
	defer idle.Stop()
	for {
		var text string
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			if text = format(e, vm); text == "" {
				continue
			}
			idle.Reset(heartbeat)
		case <-idle.C:
			text = ": alive\n\n"
		case <-ctx.Done():
			return
		}
		if s.send(text) != nil {
			return
		}
	}
}

func (s *eventStream) send(text string) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.control.Flush()
}

// format is e on the wire; empty if e does not concern the VM asked for.
func format(e vmstate.Event, vm string) string {
	switch data := e.Data.(type) {
	case vmstate.VM:
		e.Data = wholeVM(data)
	case vmstate.Migration:
		e.Data = wholeMigration(data)
	case vmstate.State:
		e.Data = wholeState(data, vm)
	}
	if vm != "" && e.VM != vm && e.Type != vmstate.EventReset && e.Type != vmstate.EventLost && e.Type != vmstate.EventHealth {
		return ""
	}
	text, err := json.Marshal(e)
	if err != nil {
		panic(fmt.Sprintf("restapi: event %d must marshal: %v", e.Seq, err))
	}
	if e.Type == vmstate.EventLost {
		// No id: the client shall come back with the last one that it has seen.
		return fmt.Sprintf("event: %s\ndata: %s\n\n", e.Type, text)
	}
	return fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", e.Seq, e.Type, text)
}

func wholeState(s vmstate.State, vm string) vmstate.State {
	out := vmstate.State{Version: s.Version, Health: s.Health, VMs: []vmstate.VM{}, Migrations: []vmstate.Migration{}}
	for _, v := range s.VMs {
		if vm == "" || v.Name == vm {
			out.VMs = append(out.VMs, wholeVM(v))
		}
	}
	for _, m := range s.Migrations {
		if vm == "" || m.VM == vm {
			out.Migrations = append(out.Migrations, wholeMigration(m))
		}
	}
	out.VMs, out.Migrations = slices.Clip(out.VMs), slices.Clip(out.Migrations)
	return out
}

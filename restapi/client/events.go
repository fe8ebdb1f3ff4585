package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"time"

	"qlive/restapi/client/wire"
	"qlive/vmstate"
)

// Waits between tries to take up a broken stream of events again.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// maxEvent bounds the bytes of one event.
const maxEvent = 16 << 20

// Watch says which events to follow.
type Watch struct {
	After uint64 // the number of the last event seen; 0 begins with an EventReset that holds the whole state
	VM    string // only of this VM, if not empty
	// Lost is told why the stream broke, each time before it is taken up again. Nil: nobody is told, and it is.
	// An error that it returns ends the watch.
	Lost func(error) error
}

// Events follows what changes, until ctx ends or the daemon refuses. A stream that breaks, the daemon may be
// restarting, is taken up where it was. The Data of an event is a VM, Region, Migration, Health or State of vmstate.
func (c *Client) Events(ctx context.Context, w Watch) iter.Seq2[vmstate.Event, error] {
	return func(yield func(vmstate.Event, error) bool) {
		retry := firstRetry
		for first := true; ; first = false {
			stream, err := c.openEvents(ctx, w)
			if err == nil {
				before := w.After
				var stop bool
				stop, err = c.readEvents(stream, &w, yield)
				stream.Close()
				if stop {
					return
				}
				if w.After != before {
					retry = firstRetry
				}
			} else if kind := vmstate.KindOf(err); first || kind != vmstate.Unavailable {
				yield(vmstate.Event{}, err)
				return
			}
			if ctx.Err() == nil && w.Lost != nil {
				if err = w.Lost(err); err != nil {
					yield(vmstate.Event{}, err)
					return
				}
			}
			select {
			case <-ctx.Done():
				yield(vmstate.Event{}, ctx.Err())
				return
			case <-time.After(retry):
				retry = min(2*retry, lastRetry)
			}
		}
	}
}

func (c *Client) openEvents(ctx context.Context, w Watch) (io.ReadCloser, error) {
	params := wire.WatchEventsParams{}
	if w.After > 0 {
		after := strconv.FormatUint(w.After, 10)
		params.LastEventID = &after
	}
	if w.VM != "" {
		params.Vm = &w.VM
	}
	return c.stream(c.wire.WatchEvents(ctx, &params, func(_ context.Context, r *http.Request) error {
		r.Header.Set("Accept", "text/event-stream")
		return nil
	}))
}

// readEvents yields the events of one stream until it breaks; stop says that nobody wants more.
func (c *Client) readEvents(stream io.Reader, w *Watch, yield func(vmstate.Event, error) bool) (stop bool, broken error) {
	lines := bufio.NewReader(stream)
	for {
		data, err := nextData(lines)
		if err != nil {
			return false, c.broken(err)
		}
		e, err := decodeEvent(data)
		if err != nil {
			yield(vmstate.Event{}, vmstate.Errorf(vmstate.Internal, "cannot understand the daemon's event: %w", err))
			return true, nil
		}
		if e.Type == vmstate.EventLost {
			return false, errors.New("this listener was too slow")
		}
		w.After = e.Seq
		if !yield(e, nil) {
			return true, nil
		}
	}
}

// nextData is the data of the next server-sent event. Its id and name stand in the data as well.
func nextData(lines *bufio.Reader) ([]byte, error) {
	var data []byte
	for {
		line, err := lines.ReadSlice('\n')
		var long []byte
		for errors.Is(err, bufio.ErrBufferFull) {
			if long = append(long, line...); len(long) > maxEvent {
				return nil, fmt.Errorf("an event of more than %d bytes", maxEvent)
			}
			line, err = lines.ReadSlice('\n')
		}
		if err != nil {
			return nil, err // a stream that ends within an event has not sent it
		}
		line = bytes.TrimRight(append(long, line...), "\r\n")
		if len(line) == 0 && data != nil {
			return data, nil
		}
		if value, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			data = append(data, bytes.TrimPrefix(value, []byte(" "))...)
		}
	}
}

// decodeEvent gives the event's data its type.
func decodeEvent(text []byte) (vmstate.Event, error) {
	var raw struct {
		vmstate.Event
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return vmstate.Event{}, err
	}
	e := raw.Event
	if raw.Data == nil {
		return e, nil
	}
	var err error
	switch e.Type {
	case vmstate.EventVM:
		e.Data, err = decode[vmstate.VM](raw.Data)
	case vmstate.EventRegion:
		e.Data, err = decode[vmstate.Region](raw.Data)
	case vmstate.EventMigration:
		e.Data, err = decode[vmstate.Migration](raw.Data)
	case vmstate.EventHealth:
		e.Data, err = decode[vmstate.Health](raw.Data)
	case vmstate.EventReset:
		e.Data, err = decode[vmstate.State](raw.Data)
	default:
		e.Data = raw.Data // of a later daemon
	}
	return e, err
}

func decode[T any](text []byte) (T, error) {
	var v T
	err := json.Unmarshal(text, &v)
	return v, err
}

// Follow gives a migration as it is and then each time that it changes, the last time when it has ended. It outlives
// a restart of the daemon.
func (c *Client) Follow(ctx context.Context, id string) iter.Seq2[vmstate.Migration, error] {
	return func(yield func(vmstate.Migration, error) bool) {
		var now vmstate.Migration
		for e, err := range c.Events(ctx, Watch{}) {
			changed := false
			switch data := e.Data.(type) {
			case vmstate.State:
				if now, changed = (&vmstate.Snapshot{Migrations: data.Migrations}).Migration(id); !changed {
					err = vmstate.Errorf(vmstate.NotFound, "cannot find migration %q", id).With("`qlive migration list` shows those that are still known")
				}
			case vmstate.Migration:
				if changed = data.ID == id; changed {
					now = data
				}
			case vmstate.Region:
				now, changed = withRegion(now, e, data)
			}
			if err != nil {
				yield(now, err)
				return
			}
			if changed && (!yield(now, nil) || now.Phase.Ended()) {
				return
			}
		}
	}
}

// withRegion is m with a region as the event tells it.
func withRegion(m vmstate.Migration, e vmstate.Event, r vmstate.Region) (vmstate.Migration, bool) {
	if m.ID == "" || e.Migration != m.ID {
		return m, false
	}
	regions := append([]vmstate.Region(nil), m.Regions...)
	for i := range regions {
		if regions[i].Name == r.Name {
			regions[i] = r
			m.Regions = regions
			return m, true
		}
	}
	return m, false
}

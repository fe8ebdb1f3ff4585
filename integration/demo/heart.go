package demo

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"qlive/integration/guest"
	"qlive/restapi/client"
	"qlive/vmstate"
)

// heart listens to what the guest says of itself on its console.
type heart struct{ *guest.Console }

// listenTo follows the guest's console, which is a file in the tree.
func listenTo(ctx context.Context, p *place, c *client.Client) (*heart, error) {
	f, err := os.Open(p.tree(vm, "console"))
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot listen to the guest: %w", err)
	}
	h := &heart{guest.NewConsole(nil)}
	h.Attach(&line{ctx: ctx, file: f, client: c, closed: make(chan struct{})})
	return h, nil
}

// line is the guest's console for both directions.
type line struct {
	ctx    context.Context // of what is typed
	file   *os.File
	client *client.Client
	once   sync.Once
	closed chan struct{}
}

// lookEvery is how often the console is looked at: how exactly the time of a beat is known.
const lookEvery = time.Millisecond

// Read waits for more, until the line is closed.
func (l *line) Read(b []byte) (int, error) {
	for {
		n, err := l.file.Read(b)
		if n > 0 || err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		select {
		case <-time.After(lookEvery):
		case <-l.closed:
			return 0, io.EOF
		}
	}
}

func (l *line) Write(b []byte) (int, error) {
	if err := l.client.Type(l.ctx, vm, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close may be called more than once, and while Read waits.
func (l *line) Close() error {
	l.once.Do(func() { close(l.closed) })
	_ = l.file.Close() // the second time it is closed already
	return nil
}

const (
	calmTime  = time.Second      // watched while nothing happens
	afterTime = time.Second      // watched when a handoff is over
	beatLimit = 30 * time.Second // for the guest to beat or to verify its memory
)

// calm watches the guest while nothing happens to it, and tells the largest gap.
func (h *heart) calm(ctx context.Context) (time.Duration, error) {
	h.Window()
	err := h.watch(ctx, calmTime)
	return h.Window().Host, err
}

// watch waits so long, and until the guest has beaten meanwhile.
func (h *heart) watch(ctx context.Context, d time.Duration) error {
	limited, cancel := context.WithTimeout(ctx, beatLimit)
	defer cancel()
	begin := h.Report().Beats
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if h.Report().Beats > begin {
		return nil
	}
	return h.AwaitBeats(limited, 1)
}

package daemon

import (
	"context"
	"errors"
	"time"
)

// closeLimit bounds the end of the daemon, beyond the handoffs that it finishes first.
const closeLimit = 10 * time.Second

// Run is the daemon from its start until ctx ends: what is in flight then is finished or undone, and the guests run on.
func Run(ctx context.Context, cfg Config, opts Options) error {
	d := New(cfg, opts)
	if err := d.Open(ctx); err != nil {
		return err
	}
	served := d.Serve(ctx)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	return errors.Join(served, d.Close(end))
}

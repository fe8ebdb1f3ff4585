package bench

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"qlive/integration/guest"
	"qlive/integration/guest/beats"
)

// party is one of the guests of a scene.
type party interface {
	handOver(ctx context.Context, c Contender, version string) (Sample, error)
	stand(context.Context) error // stop its vCPUs
	walk(context.Context) error  // let them go on
	serial() *guest.Console
	close() error
}

// cast are the guests of a scene: one that bare clients hand around and, if it is measured, one that qlive has.
type cast struct {
	bare    party
	qlive   party
	service *service
	awake   party // the one whose vCPUs run; the other's stand, so as not to disturb
}

func (c *cast) close() (err error) {
	for _, p := range []party{c.bare, c.qlive} {
		if p != nil {
			err = errors.Join(err, p.close())
		}
	}
	if c.service != nil {
		err = errors.Join(err, c.service.close())
	}
	return err
}

// The guests' folders, short for the sake of the paths of sockets.
const (
	bareDir    = "b"
	serviceDir = "q"
	treeDir    = "t" // in the service's
)

// boot starts the guests, both at once.
func (b *bench) boot(ctx context.Context, s scene, dir string) (*cast, error) {
	c := new(cast)
	more := ""
	if s.has(func(c Contender) bool { return c == CPR }) {
		more = auxShare
	}
	bare := make(chan error, 1)
	go func() {
		g, err := newBareGuest(ctx, b.parts, s.shape, s.from, filepath.Join(dir, bareDir), more)
		if err == nil {
			c.bare = g
		}
		bare <- err
	}()
	var err error
	if s.has(Contender.isQlive) {
		if c.service, err = startService(ctx, b.Qlive, filepath.Join(dir, serviceDir), s.group == Readers); err == nil {
			var g *qliveGuest
			if g, err = newQliveGuest(ctx, b.parts, s.shape, s.from, c.service); err == nil {
				c.qlive = g
			}
		}
	}
	if err := errors.Join(<-bare, err); err != nil {
		return c, err
	}
	c.awake = c.bare
	if c.qlive != nil {
		return c, c.qlive.stand(ctx)
	}
	return c, nil
}

// fillLimit bounds how long a guest may take to touch all of its memory, on a machine that is busy.
func fillLimit(s Shape) time.Duration {
	return time.Minute + time.Duration(int64(s.TouchedMiB)<<20/fillSpeed)*time.Second
}

// awaitBoot waits until the guest has come up and filled its memory.
func awaitBoot(ctx context.Context, console *guest.Console, s Shape) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit+fillLimit(s))
	defer cancel()
	up := func(r beats.Report) bool {
		return r.Panics > 0 || len(r.Errors) > 0 || len(r.Boots) > 0 && r.Boots[0].Fill != nil
	}
	r, err := console.Await(ctx, "the guest to fill its memory", up)
	if err == nil && (r.Panics > 0 || len(r.Errors) > 0) {
		err = r.Check()
	}
	return err
}

// who is the guest that a contender hands over.
func (c *cast) who(of Contender) party {
	if of.isQlive() {
		return c.qlive
	}
	return c.bare
}

// wake lets one guest run and the other stand.
func (c *cast) wake(ctx context.Context, p party) error {
	if c.awake == p {
		return nil
	}
	if err := c.awake.stand(ctx); err != nil {
		return err
	}
	c.awake = p
	return p.walk(ctx)
}

// check reads what each guest's console says of its life, and has the guest verify its memory.
func (c *cast) check(ctx context.Context, s Shape) error {
	ctx, cancel := context.WithTimeout(ctx, fillLimit(s))
	defer cancel()
	for _, p := range []party{c.bare, c.qlive} {
		if p == nil {
			continue
		}
		if err := p.serial().Report().Check(); err != nil {
			return err
		}
		if err := c.wake(ctx, p); err != nil {
			return err
		}
		m, err := p.serial().Verify(ctx)
		if err != nil {
			return err
		}
		if !m.OK {
			return fmt.Errorf("cannot trust these figures: %d of %d pages of the guest are not as they were", m.Bad, m.Pages)
		}
	}
	return nil
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"qlive/vmstate"
)

const (
	readerCount = 1000
	readEvery   = time.Second            // of each reader, as an agent that watches does; their turns are spread evenly
	readAhead   = 300 * time.Millisecond // that they have been reading for when the guest is handed over
)

// readers read a file over and over again, each as often as if it were alone.
type readers struct {
	end  context.CancelFunc
	done sync.WaitGroup

	mu     sync.Mutex
	count  int
	errors []error // the first few
}

// read starts the readers. Check judges what they have read.
func read(ctx context.Context, file string, check func(text string) error) *readers {
	ctx, cancel := context.WithCancel(ctx)
	r := &readers{end: cancel}
	for i := range readerCount {
		r.done.Go(func() {
			turn := time.NewTimer(readEvery * time.Duration(i) / readerCount)
			defer turn.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-turn.C:
				}
				turn.Reset(readEvery)
				text, err := os.ReadFile(file)
				if err == nil {
					err = check(string(text))
				}
				r.note(err)
			}
		})
	}
	return r
}

func (r *readers) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	if err != nil && len(r.errors) < 3 {
		r.errors = append(r.errors, err)
	}
}

// stop ends them, and tells what has gone wrong.
func (r *readers) stop() error {
	r.end()
	r.done.Wait()
	if r.count == 0 {
		return errors.New("cannot say what readers cost: none has read anything")
	}
	return errors.Join(r.errors...)
}

// readBeside lets the readers of a contender, if it has any, read until stop is called; it returns once they have been at it for a while.
func (c *cast) readBeside(ctx context.Context, who Contender) (stop func() error, err error) {
	var r *readers
	switch who {
	case BesideTree:
		r = read(ctx, filepath.Join(c.service.tree, vmName, "status"), func(text string) error {
			switch vmstate.Status(strings.TrimSuffix(text, "\n")) {
			case vmstate.Running, vmstate.Migrating:
				return nil
			}
			return fmt.Errorf("the tree says that the guest is %q", text)
		})
	case BesideTmpfs: // in the run directory, which lies where the tree is mounted
		file := filepath.Join(c.service.run, "ordinary")
		if err := os.WriteFile(file, []byte("running\n"), 0o600); err != nil {
			return nil, err
		}
		r = read(ctx, file, func(string) error { return nil })
	default:
		return func() error { return nil }, nil
	}
	select {
	case <-time.After(readAhead):
		return r.stop, nil
	case <-ctx.Done():
		_ = r.stop() // it was interrupted
		return nil, context.Cause(ctx)
	}
}

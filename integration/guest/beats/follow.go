package beats

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// followEvery is how often a followed file is looked at again.
const followEvery = 2 * time.Millisecond

// Follow returns a reader of a file that is still being written, such as a console's log: at its end
// it waits for more. The reader ends (io.EOF) at the end of the file once ctx is done, so that nothing
// that was written before is missed. Close it after use.
func Follow(ctx context.Context, path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot follow a console: %w", err)
	}
	return &follower{ctx: ctx, f: f}, nil
}

type follower struct {
	ctx context.Context
	f   *os.File
}

// Read implements io.Reader.
func (f *follower) Read(b []byte) (int, error) {
	for {
		done := f.ctx.Err() != nil // before the read: what is written until then is read
		n, err := f.f.Read(b)
		if n > 0 || (err != nil && !errors.Is(err, io.EOF)) || len(b) == 0 {
			return n, err
		}
		if done {
			return 0, io.EOF
		}
		select {
		case <-f.ctx.Done():
		case <-time.After(followEvery):
		}
	}
}

// Close implements io.Closer.
func (f *follower) Close() error { return f.f.Close() }

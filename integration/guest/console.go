package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"qlive/integration/guest/beats"
	"qlive/integration/guest/wire"
)

// Console is the host's end of the guest's serial console. The guest may live in several QEMUs one
// after another; the console reads the end of each (Attach) and judges the bytes of one to their end
// before those of the next, with the times at which they really arrived.
//
// Its methods may be called from several goroutines. Close it to wait for its own.
type Console struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced when something was judged
	parser  beats.Parser
	mems    map[string]wire.Mem // by tag, of verifications that were asked for
	raw     io.Writer           // gets the joined bytes; nil for nowhere
	ends    []*end              // not judged to their end; the first is being judged
	tags    int
	broken  error // the first error of reading or of raw

	readers sync.WaitGroup
}

// end is one QEMU's end of the console.
type end struct {
	rw     io.ReadWriteCloser
	chunks []chunk // read, not judged
	eof    bool
}

type chunk struct {
	at   time.Time
	data []byte
}

// NewConsole returns a console without an end. What is judged is written to raw, too, if not nil.
func NewConsole(raw io.Writer) *Console {
	c := &Console{changed: make(chan struct{}), mems: map[string]wire.Mem{}, raw: raw}
	c.parser.OnLine = func(kind string, payload []byte, _ time.Time) {
		if m, err := wire.ParseMem(payload); kind == wire.KindMem && err == nil {
			c.mems[m.Tag] = m
		}
	}
	return c
}

// Attach adds the next QEMU's end of the console, before that QEMU runs the guest. The console reads
// it to its end (a closed connection) and closes it.
func (c *Console) Attach(rw io.ReadWriteCloser) {
	e := &end{rw: rw}
	c.mu.Lock()
	c.ends = append(c.ends, e)
	c.mu.Unlock()
	c.readers.Add(1)
	go c.read(e)
}

// read reads one end until it ends.
func (c *Console) read(e *end) {
	defer c.readers.Done()
	buf := make([]byte, 4096)
	for {
		n, err := e.rw.Read(buf)
		at := time.Now()
		c.mu.Lock()
		e.eof = err != nil
		if c.ends[0] == e {
			c.judge(chunk{at, buf[:n]})
		} else {
			e.chunks = append(e.chunks, chunk{at, slices.Clone(buf[:n])})
		}
		if e.eof {
			c.proceed()
		}
		c.mu.Unlock()
		if err != nil {
			_ = e.rw.Close()
			return
		}
	}
}

// proceed goes on to the next end if the first one has ended and is judged. The lock is held.
func (c *Console) proceed() {
	for len(c.ends) > 0 && c.ends[0].eof {
		c.ends = c.ends[1:]
		if len(c.ends) == 0 {
			break
		}
		for _, k := range c.ends[0].chunks {
			c.judge(k)
		}
		c.ends[0].chunks = nil
	}
	c.tell()
}

// judge takes in bytes of the first end. The lock is held.
func (c *Console) judge(k chunk) {
	c.parser.Feed(k.data, k.at)
	if c.raw != nil {
		if _, err := c.raw.Write(k.data); err != nil && c.broken == nil {
			c.broken = fmt.Errorf("cannot keep the console's bytes: %w", err)
		}
	}
	// QEMU sends byte by byte; only a whole line is news.
	if bytes.IndexByte(k.data, '\n') >= 0 || c.broken != nil {
		c.tell()
	}
}

// tell wakes whoever waits. The lock is held.
func (c *Console) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Report returns what the console said so far.
func (c *Console) Report() beats.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parser.Report()
}

// Window returns the gaps between beats since the last call, see beats.Parser.
func (c *Console) Window() beats.Gaps {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parser.Window()
}

// Await waits until done says so of the report, and returns that report. The error says what was
// waited for and what the console said last; it wraps the context's.
func (c *Console) Await(ctx context.Context, what string, done func(beats.Report) bool) (beats.Report, error) {
	for {
		c.mu.Lock()
		r, changed, broken := c.parser.Report(), c.changed, c.broken
		ended := len(c.ends) == 0
		c.mu.Unlock()
		switch {
		case done(r):
			return r, nil
		case broken != nil:
			return r, broken
		case ended:
			return r, fmt.Errorf("cannot wait for %s: the console has ended after %s", what, summary(r))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return r, fmt.Errorf("cannot wait any longer for %s, with %s: %w", what, summary(r), context.Cause(ctx))
		}
	}
}

func summary(r beats.Report) string {
	return fmt.Sprintf("%d boots, %d beats, %d verifications, errors %q, kernel %q", len(r.Boots), r.Beats, r.Mems, r.Errors, r.Kernel)
}

// Send sends one command to the guest, through the QEMU whose bytes are being judged.
func (c *Console) Send(command string) error {
	c.mu.Lock()
	if len(c.ends) == 0 {
		c.mu.Unlock()
		return errors.New("cannot send a command: no QEMU has this console")
	}
	w := c.ends[0].rw
	c.mu.Unlock()
	if _, err := io.WriteString(w, command+"\n"); err != nil {
		return fmt.Errorf("cannot send the command %q to the guest: %w", command, err)
	}
	return nil
}

// AwaitBoot waits until the guest has come up n times, counted over the console's life, and has
// filled its memory.
func (c *Console) AwaitBoot(ctx context.Context, n int) (beats.Boot, error) {
	up := func(r beats.Report) bool { return len(r.Boots) >= n && r.Boots[n-1].Fill != nil }
	r, err := c.Await(ctx, "boot "+strconv.Itoa(n), up)
	if err != nil {
		return beats.Boot{}, err
	}
	return r.Boots[n-1], nil
}

// AwaitBeats waits for n more beats.
func (c *Console) AwaitBeats(ctx context.Context, n uint64) error {
	goal := c.Report().Beats + n
	_, err := c.Await(ctx, strconv.FormatUint(n, 10)+" beats", func(r beats.Report) bool { return r.Beats >= goal })
	return err
}

// Verify has the guest check all of its memory now and returns the result. That memory is bad is in
// the result, not an error.
func (c *Console) Verify(ctx context.Context) (wire.Mem, error) {
	c.mu.Lock()
	c.tags++
	tag := "ask" + strconv.Itoa(c.tags)
	c.mu.Unlock()
	if err := c.Send("verify " + tag); err != nil {
		return wire.Mem{}, err
	}
	_, err := c.Await(ctx, "the result of verification "+tag, func(beats.Report) bool {
		_, ok := c.mem(tag)
		return ok
	})
	m, _ := c.mem(tag)
	return m, err
}

func (c *Console) mem(tag string) (wire.Mem, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, ok := c.mems[tag]
	return m, ok
}

// Close closes what is attached, waits for the console's goroutines and returns the first error of
// keeping its bytes. The report stays.
func (c *Console) Close() error {
	c.mu.Lock()
	ends := slices.Clone(c.ends)
	c.mu.Unlock()
	for _, e := range ends {
		_ = e.rw.Close()
	}
	c.readers.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

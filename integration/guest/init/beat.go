package main

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"qlive/integration/guest/wire"
)

// console is the serial console and its one writer: the goroutine in beat. Everyone else says
// finished lines, which it writes between beats.
type console struct {
	fd    int
	clock clock
	lines chan []byte
	last  chan ending
	seq   atomic.Uint64 // of the last beat written
}

// ending is how a boot ends on purpose: after the line BYE, do is called and does not return.
type ending struct {
	how string
	do  func() error
}

func newConsole(fd int, c clock) *console {
	return &console{fd: fd, clock: c, lines: make(chan []byte, 64), last: make(chan ending)}
}

// say hands a line to the writer; it waits while many are waiting.
func (c *console) say(line []byte) { c.lines <- line }

// sayError says an error.
func (c *console) sayError(err error) { c.say(wire.Text(wire.KindErr, err.Error())) }

// beat beats every period, and between two beats writes at most one of the lines said. It returns
// only when the console fails or an ending does.
func (c *console) beat(period time.Duration) error {
	if err := ownThread(0, true); err != nil {
		return err
	}
	buf := make([]byte, 0, wire.MaxLine)
	for next := c.clock.now(); ; {
		// What was missed is not made up for: a gap shows as a gap, never as a burst.
		next = max(next+int64(period), c.clock.now())
		c.clock.sleepUntil(next)
		seq := c.seq.Load() + 1
		if err := c.write(wire.Beat{Seq: seq, Micros: c.clock.now() / 1000}.Append(buf)); err != nil {
			return err
		}
		c.seq.Store(seq)
		select {
		case line := <-c.lines:
			if err := c.write(line); err != nil {
				return err
			}
		case end := <-c.last:
			return c.end(end)
		default:
		}
	}
}

// end writes what was said before and the last line of this boot, lets it leave, and ends the boot.
func (c *console) end(e ending) error {
	for {
		select {
		case line := <-c.lines:
			if err := c.write(line); err != nil {
				return err
			}
			continue
		default:
		}
		break
	}
	if err := c.write(wire.Bye{How: e.how, Seq: c.seq.Load()}.Append(nil)); err != nil {
		return err
	}
	if err := drain(c.fd); err != nil {
		return fmt.Errorf("cannot drain the console: %w", err)
	}
	if err := e.do(); err != nil {
		return fmt.Errorf("cannot %s: %w", e.how, err)
	}
	return fmt.Errorf("cannot %s: the kernel came back", e.how)
}

// write writes a whole line.
func (c *console) write(line []byte) error {
	for len(line) > 0 {
		n, err := syscall.Write(c.fd, line)
		if err == syscall.EINTR || err == syscall.EAGAIN {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot write to the console: %w", err)
		}
		line = line[n:]
	}
	return nil
}

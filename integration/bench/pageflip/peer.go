package pageflip

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the two descriptors are that a peer inherits.
const (
	controlFD = 3 // JSON from and to the referee
	otherFD   = 4 // a socket to the other peer
)

// order is the first thing that a peer hears.
type order struct {
	Route Route  `json:"route"`
	Donor bool   `json:"donor"`
	Bytes int    `json:"bytes"`
	Seed  uint64 `json:"seed"` // of the content
}

// start is the second: that it may begin, and who the other is.
type start struct {
	PID  int     `json:"pid"`
	Addr uintptr `json:"addr"`
}

// answer is what a peer says to each: to the order where its memory is, to the start what it has used. After the start comes one
// word more, upon which the taker looks at what has arrived.
type answer struct {
	Addr  uintptr `json:"addr"`
	CPUNS int64   `json:"cpu_ns"`
	Err   string  `json:"err"`
}

// Peer is one of the two processes, on the descriptors that [Run] has given it. It ends when the referee has no more words.
func Peer() error {
	control := os.NewFile(controlFD, "control")
	if control == nil {
		return errors.New("cannot begin: this is a part of qlive bench flip, which starts it itself")
	}
	defer control.Close()
	in, out := json.NewDecoder(control), json.NewEncoder(control)
	var o order
	if err := in.Decode(&o); err != nil {
		return fmt.Errorf("cannot understand the order: %w", err)
	}
	w, ok := workOf(o.Route)
	if !ok {
		return fmt.Errorf("cannot go by %q: there is no such route", o.Route)
	}
	s, err := newSide(o, w)
	if err := reply(out, s, 0, err); err != nil {
		return err
	}
	var other start
	if err := in.Decode(&other); err != nil {
		return fmt.Errorf("cannot understand the start: %w", err)
	}
	s.pid, s.addr = other.PID, other.Addr
	move := w.take
	if o.Donor {
		move = w.give
	}
	before := used()
	err = move(s)
	if err := reply(out, s, used()-before, err); err != nil {
		return err
	}
	var last struct{}
	if err := in.Decode(&last); err != nil {
		return fmt.Errorf("cannot understand the last word: %w", err)
	}
	err = nil
	if !o.Donor || w.kept {
		err = verify(s.ram, o.Seed)
	}
	if err := reply(out, s, 0, err); err != nil {
		return err
	}
	_ = in.Decode(&last) // the end: until then the referee looks at our pages
	return nil
}

// newSide makes the memory: the donor's with the content, the taker's empty.
func newSide(o order, w work) (*side, error) {
	s := &side{file: -1, peer: otherFD}
	var err error
	if !o.Donor || w.file {
		if s.file, err = makeFile(o.Bytes); err != nil {
			return s, err
		}
		s.ram, err = mapFile(s.file, o.Bytes)
	} else {
		s.ram, err = mapPrivate(o.Bytes)
	}
	if err == nil && o.Donor {
		fill(s.ram, o.Seed)
	}
	return s, err
}

// reply says how it went, and passes the error on.
func reply(out *json.Encoder, s *side, cpu time.Duration, err error) error {
	a := answer{CPUNS: int64(cpu)}
	if err != nil {
		a.Err = err.Error()
	} else {
		a.Addr = uintptr(unsafe.Pointer(&s.ram[0]))
	}
	return errors.Join(err, out.Encode(a))
}

// used is the CPU time of this process.
func used() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

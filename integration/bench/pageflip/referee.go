package pageflip

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/bench"
)

// memoryTick is how often the host's memory is looked at during a move.
const memoryTick = 3 * time.Millisecond

// Sample is what one move did.
type Sample struct {
	TookNS     int64 `json:"took_ns"`     // from the word to begin until both sides are done
	CPUNS      int64 `json:"cpu_ns"`      // of both sides
	HeldBytes  int64 `json:"held_bytes"`  // memory of the host held at the peak beyond the start
	LeftBytes  int64 `json:"left_bytes"`  // what the donor still has afterwards
	MovedPages int   `json:"moved_pages"` // pages that lie in the frame that they lay in
	Pages      int   `json:"pages"`       // all of them
}

// peer is one of the two processes, seen from the referee.
type peer struct {
	cmd     *exec.Cmd
	control *os.File
	in      *json.Decoder
	out     *json.Encoder
	words   strings.Builder // what it has said on stderr
	last    answer
}

// move lets two new processes move memory once.
func (o Options) move(ctx context.Context, r Route, seed uint64) (s Sample, err error) {
	pair, err := sockets()
	if err != nil {
		return s, err
	}
	donor, errDonor := o.begin(ctx, pair[0])
	taker, errTaker := o.begin(ctx, pair[1])
	err = errors.Join(errDonor, errTaker, pair[0].Close(), pair[1].Close())
	defer func() { err = errors.Join(err, donor.end(), taker.end()) }()
	if err != nil {
		return s, err
	}
	for _, p := range []*peer{donor, taker} {
		if err := p.say(order{Route: r, Donor: p == donor, Bytes: o.Bytes, Seed: seed}); err != nil {
			return s, err
		}
	}
	if err := errors.Join(donor.hear(), taker.hear()); err != nil {
		return s, err
	}
	before, err := frames(donor.cmd.Process.Pid, donor.last.Addr, o.Bytes)
	if err != nil {
		return s, err
	}
	if err := s.time(ctx, donor, taker); err != nil {
		return s, err
	}
	return s, s.look(donor, taker, before, o.Bytes)
}

// time lets them begin and waits until both are done.
func (s *Sample) time(ctx context.Context, donor, taker *peer) error {
	toDonor := start{PID: taker.cmd.Process.Pid, Addr: taker.last.Addr}
	toTaker := start{PID: donor.cmd.Process.Pid, Addr: donor.last.Addr}
	held := bench.WatchMemory(ctx, memoryTick)
	began := time.Now()
	err := errors.Join(taker.say(toTaker), donor.say(toDonor))
	if err == nil {
		err = errors.Join(donor.hear(), taker.hear())
	}
	s.TookNS = time.Since(began).Nanoseconds()
	s.HeldBytes = held.Stop()
	s.CPUNS = donor.last.CPUNS + taker.last.CPUNS
	return err
}

// look lets the taker compare the content, and compares page frames.
func (s *Sample) look(donor, taker *peer, before []uint64, bytes int) error {
	donorFrames, err := frames(donor.cmd.Process.Pid, donor.last.Addr, bytes)
	if err != nil {
		return err
	}
	s.Pages = present(before)
	s.LeftBytes = int64(present(donorFrames)) * int64(os.Getpagesize())
	if err := errors.Join(taker.say(struct{}{}), taker.hear()); err != nil {
		return err
	}
	if err := errors.Join(donor.say(struct{}{}), donor.hear()); err != nil {
		return err
	}
	after, err := frames(taker.cmd.Process.Pid, taker.last.Addr, bytes)
	if err != nil {
		return err
	}
	s.MovedPages = same(before, after)
	return nil
}

// sockets are a connected pair.
func sockets() (ends [2]*os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ends, fmt.Errorf("cannot make a pair of sockets: %w", err)
	}
	return [2]*os.File{os.NewFile(uintptr(fds[0]), "pair"), os.NewFile(uintptr(fds[1]), "pair")}, nil
}

// begin starts a peer with its end of the pair. It returns a peer that can be ended whatever happens.
func (o Options) begin(ctx context.Context, end *os.File) (*peer, error) {
	p := &peer{}
	ours, err := sockets()
	if err != nil {
		return p, err
	}
	defer ours[1].Close()
	cmd := exec.CommandContext(ctx, o.Peer[0], o.Peer[1:]...)
	cmd.Env = append(os.Environ(), o.PeerEnv...)
	cmd.ExtraFiles = []*os.File{ours[1], end} // controlFD and otherFD
	cmd.Stderr = &p.words
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the referee
	if err := cmd.Start(); err != nil {
		return p, errors.Join(fmt.Errorf("cannot start %s: %w", o.Peer[0], err), ours[0].Close())
	}
	p.cmd, p.control = cmd, ours[0]
	p.in, p.out = json.NewDecoder(p.control), json.NewEncoder(p.control)
	return p, nil
}

func (p *peer) say(word any) error {
	if err := p.out.Encode(word); err != nil {
		return fmt.Errorf("cannot tell a process of the benchmark what to do: %w", err)
	}
	return nil
}

func (p *peer) hear() error {
	p.last = answer{}
	if err := p.in.Decode(&p.last); err != nil {
		return fmt.Errorf("cannot hear from a process of the benchmark: %w", err)
	}
	if p.last.Err != "" {
		return errors.New(p.last.Err)
	}
	return nil
}

// end lets the peer go and waits for it.
func (p *peer) end() error {
	if p.cmd == nil {
		return nil
	}
	err := p.control.Close()
	if e := p.cmd.Wait(); e != nil {
		err = errors.Join(err, fmt.Errorf("a process of the benchmark ended with %w: %s", e, strings.TrimSpace(p.words.String())))
	}
	return err
}

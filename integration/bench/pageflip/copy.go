package pageflip

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// givePwrite writes into the taker's memfd.
func givePwrite(s *side) error {
	file, err := s.receive()
	if err != nil {
		return err
	}
	defer unix.Close(file)
	for off, part := range s.chunks() {
		for done := 0; done < len(part); {
			n, err := again(func() (int, error) { return unix.Pwrite(file, part[done:], off+int64(done)) })
			if err := moved("pwrite", int64(n), err); err != nil {
				return err
			}
			done += n
		}
		if err := dontNeed(part); err != nil {
			return err
		}
	}
	return s.ack()
}

func takePwrite(s *side) error {
	if err := s.send(s.file); err != nil {
		return err
	}
	return s.await()
}

// giveAddress has nothing to do but to free: where its memory is the taker knows.
func giveAddress(s *side) error {
	for _, part := range s.chunks() {
		if err := s.await(); err != nil {
			return err
		}
		if err := dontNeed(part); err != nil {
			return err
		}
	}
	return nil
}

func takeVMRead(s *side) error {
	for off, part := range s.chunks() {
		for done := 0; done < len(part); {
			local := unix.Iovec{Base: &part[done]}
			local.SetLen(len(part) - done)
			remote := unix.RemoteIovec{Base: s.addr + uintptr(off) + uintptr(done), Len: len(part) - done}
			n, err := again(func() (int, error) {
				return unix.ProcessVMReadv(s.pid, []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
			})
			if err := moved("read the other process's memory", int64(n), err); err != nil {
				return err
			}
			done += n
		}
		if err := s.ack(); err != nil {
			return err
		}
	}
	return nil
}

func giveUnix(s *side) error {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot make a pair of sockets: %w", err)
	}
	defer unix.Close(ends[0])
	if err := errors.Join(s.send(ends[1]), unix.Close(ends[1])); err != nil {
		return err
	}
	return s.giveStream(ends[0])
}

func takeUnix(s *side) error {
	stream, err := s.receive()
	if err != nil {
		return err
	}
	defer unix.Close(stream)
	return s.takeStream(stream)
}

// giveTCP connects to the port that the taker names.
func giveTCP(s *side) error {
	port := make([]byte, 2)
	if err := readAll(s.peer, port); err != nil {
		return err
	}
	stream, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot make a socket: %w", err)
	}
	defer unix.Close(stream)
	if err := unix.Connect(stream, loopback(int(binary.BigEndian.Uint16(port)))); err != nil {
		return fmt.Errorf("cannot connect: %w", err)
	}
	return s.giveStream(stream)
}

func takeTCP(s *side) error {
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot make a socket: %w", err)
	}
	defer unix.Close(listener)
	if err := errors.Join(unix.Bind(listener, loopback(0)), unix.Listen(listener, 1)); err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	name, err := unix.Getsockname(listener)
	if err != nil {
		return fmt.Errorf("cannot tell the port: %w", err)
	}
	port := name.(*unix.SockaddrInet4).Port
	if err := writeAll(s.peer, binary.BigEndian.AppendUint16(nil, uint16(port))); err != nil {
		return err
	}
	stream, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("cannot accept: %w", err)
	}
	defer unix.Close(stream)
	return s.takeStream(stream)
}

func loopback(port int) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
}

func (s *side) giveStream(fd int) error {
	for _, part := range s.chunks() {
		if err := writeAll(fd, part); err != nil {
			return err
		}
		if err := s.await(); err != nil {
			return err
		}
		if err := dontNeed(part); err != nil {
			return err
		}
	}
	return nil
}

func (s *side) takeStream(fd int) error {
	for _, part := range s.chunks() {
		if err := readAll(fd, part); err != nil {
			return err
		}
		if err := s.ack(); err != nil {
			return err
		}
	}
	return nil
}

// giveFile passes the file that the memory lies in: nothing else has to be done.
func giveFile(s *side) error {
	if err := s.send(s.file); err != nil {
		return err
	}
	return s.await()
}

// takeFile maps the donor's file in the place of its own.
func takeFile(fill bool) func(*side) error {
	return func(s *side) error {
		file, err := s.receive()
		if err != nil {
			return err
		}
		ram, err := mapFile(file, len(s.ram))
		if err != nil {
			return errors.Join(err, unix.Close(file))
		}
		if err := errors.Join(unix.Munmap(s.ram), unix.Close(s.file)); err != nil {
			return fmt.Errorf("cannot let go of the empty file: %w", err)
		}
		s.ram, s.file = ram, file
		if fill {
			if err := unix.Madvise(ram, unix.MADV_POPULATE_WRITE); err != nil {
				return fmt.Errorf("cannot fill the page tables: %w", err)
			}
		}
		return s.ack()
	}
}

package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"
)

// The guest's serial port is a socket that nobody is connected to while it is handed over, and a log that every QEMU of the
// guest appends to. A connected reader would disturb: QEMU writes single bytes, some 280 of them fill the socket, and what is
// then waiting in the port is saved with it and yet sent by the source, so that the guest's words are heard twice.
const (
	socketName = "console"
	logName    = "console.log"
)

// chardev is the serial port's backend: the folder of the guest holds the log, that of its QEMU the socket.
func chardev(guest, qemu string) string {
	return "socket,id=console,path=" + filepath.Join(qemu, socketName) + ",server=on,wait=off,logfile=" + filepath.Join(guest, logName) + ",logappend=on"
}

// logTick is how often the log is looked at: how exactly arrival times are known.
const logTick = 500 * time.Microsecond

// serial reads the log as it grows. For each write it connects to the socket.
type serial struct {
	log    *os.File
	socket string
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
}

// openSerial follows the serial port of the guest whose folder is dir: its log and, to write, the socket of the QEMU that
// has the guest then, or a link to it.
func openSerial(dir string) (*serial, error) {
	f, err := os.Open(filepath.Join(dir, logName))
	if err != nil {
		return nil, fmt.Errorf("cannot read the guest's console: %w", err)
	}
	s := &serial{log: f, socket: filepath.Join(dir, socketName)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Read waits for more; it ends, with io.EOF, once the port is closed.
func (s *serial) Read(p []byte) (int, error) {
	for {
		n, err := s.log.Read(p)
		if n > 0 || err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		select {
		case <-time.After(logTick):
		case <-s.ctx.Done():
			return 0, io.EOF
		}
	}
}

// stay is how long a writer stays connected, so that QEMU reads what it was sent before it sees the writer gone.
const stay = 50 * time.Millisecond

// Write says something to the guest.
func (s *serial) Write(p []byte) (int, error) {
	conn, err := net.Dial("unix", s.socket)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	n, err := conn.Write(p)
	if err == nil {
		err = conn.SetReadDeadline(time.Now().Add(stay))
	}
	if err == nil {
		_, _ = io.Copy(io.Discard, conn) // until the deadline
	}
	return n, err
}

// Close may be called more than once, and while Read waits.
func (s *serial) Close() error {
	s.cancel()
	_ = s.log.Close() // the second time it is closed already
	return nil
}

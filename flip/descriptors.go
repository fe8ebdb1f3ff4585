package flip

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"qlive/vmstate/stream"
)

// descriptors are what a source of cpr-transfer gives its target: the files behind all of its memory, and the words that go with them.
type descriptors struct {
	state stream.CPRState
	files []*os.File // in the order of the state's
}

// Limits of what a source may give: it is run by its guest, if that has broken out.
const (
	maxDescriptors = 4096
	maxState       = 4 << 20 // bytes
	perMessage     = 253     // descriptors, SCM_MAX_FD of Linux
)

// takeDescriptors reads until the source has said all. The caller closes them; with an error there are none.
func takeDescriptors(conn *net.UnixConn) (d *descriptors, err error) {
	d = new(descriptors)
	defer func() {
		if err != nil {
			d.close()
			d = nil
		}
	}()
	var said []byte
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*perMessage))
	for {
		n, oobn, flags, _, err := conn.ReadMsgUnix(buf, oob)
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.Join(err, d.add(oob[:oobn]))
		}
		said = append(said, buf[:n]...)
		switch {
		case err == nil && flags&unix.MSG_CTRUNC != 0, len(d.files) > maxDescriptors, len(said) > maxState:
			return d, errors.New("cannot take the source's descriptors: they are too many")
		case errors.Is(err, io.EOF), err == nil && n == 0 && oobn == 0:
			return d, d.parse(said)
		case err != nil:
			return d, fmt.Errorf("cannot take the source's descriptors: %w", err)
		}
	}
}

// add takes the descriptors that came with a message.
func (d *descriptors) add(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return err
		}
		for _, fd := range fds {
			d.files = append(d.files, os.NewFile(uintptr(fd), "given"))
		}
	}
	return nil
}

func (d *descriptors) parse(said []byte) (err error) {
	if d.state, err = stream.ParseCPRState(said); err != nil {
		return err
	}
	if has, want := len(d.files), len(d.state.Descriptors()); has != want {
		return fmt.Errorf("cannot take the source's descriptors: it speaks of %d and gave %d", want, has)
	}
	return nil
}

// words are the state as a QEMU of this version takes it.
func (d *descriptors) words(version string) ([]byte, error) {
	if before(10, 1, version) {
		return d.state.Before101()
	}
	return d.state.Bytes(), nil
}

// give sends words, and each descriptor with the byte that stands for it, and says that there is no more.
func (d *descriptors) give(conn *net.UnixConn, words []byte) error {
	at := 0
	for i, entry := range d.state.Descriptors() {
		until := entry.At + 1
		if _, _, err := conn.WriteMsgUnix(words[at:until], unix.UnixRights(int(d.files[i].Fd())), nil); err != nil {
			return err
		}
		at = until
	}
	if _, err := conn.Write(words[at:]); err != nil {
		return err
	}
	return conn.CloseWrite()
}

func (d *descriptors) close() {
	for _, f := range d.files {
		f.Close()
	}
	d.files = nil
}

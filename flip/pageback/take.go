package pageback

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"qlive/vmstate/stream"
)

// Pages is what a source has sent.
type Pages struct {
	blocks []*kept
	orphan []byte // a page that came first, without its address; nil for none
}

// taker reads what follows the devices.
type taker struct {
	*Pages
	in    *bufio.Reader
	out   io.Writer
	block *kept // that the last page was of; nil before the first that names its own
	nameless
}

// Take takes the place of a dead target at its end of the channel, and returns once the source has sent all that it has. What has come is of no use
// before [Pages.Check].
func Take(ctx context.Context, end *os.File, blocks []Block) (*Pages, error) {
	conn, err := net.FileConn(end)
	if err != nil {
		return nil, fmt.Errorf("cannot use the migration channel: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // fails only on a closed socket
	defer stop()
	return take(conn, blocks)
}

// bufferBytes holds what a channel may hold unread, and more.
const bufferBytes = 1 << 20

func take(channel io.ReadWriter, blocks []Block) (*Pages, error) {
	t := &taker{Pages: new(Pages), in: bufio.NewReaderSize(channel, bufferBytes), out: channel}
	for _, b := range blocks {
		t.blocks = append(t.blocks, newKept(b))
	}
	t.among = slices.Clone(t.blocks)
	t.say(stream.MessagePong, devicesLoaded)
	if err := t.align(); err != nil {
		return nil, err
	}
	if err := t.sections(); err != nil {
		return nil, err
	}
	if err := t.settle(); err != nil {
		return nil, err
	}
	return t.Pages, nil
}

// sections reads all of them.
func (t *taker) sections() error {
	for {
		kind, err := t.in.ReadByte()
		if err != nil {
			return cut(err)
		}
		switch stream.Kind(kind) {
		case stream.KindEOF:
			t.say(stream.MessageShut, 0)
			return nil
		case stream.KindCommand:
			err = t.command()
		case stream.KindPart, stream.KindEnd:
			err = t.ram()
		default:
			err = fmt.Errorf("cannot understand what the source sends: a section that starts with %#x", kind)
		}
		if err != nil {
			return err
		}
	}
}

func cut(err error) error { return fmt.Errorf("cannot read what the source sends: %w", err) }

// command answers pings, and reads past what a target would do: throw away pages that come again, and load the devices.
func (t *taker) command() error {
	var head [4]byte
	if _, err := io.ReadFull(t.in, head[:]); err != nil {
		return cut(err)
	}
	data := make([]byte, binary.BigEndian.Uint16(head[2:]))
	if _, err := io.ReadFull(t.in, data); err != nil {
		return cut(err)
	}
	switch command := stream.Command(binary.BigEndian.Uint16(head[:])); {
	case command == stream.CommandPing && len(data) == 4:
		t.say(stream.MessagePong, binary.BigEndian.Uint32(data))
	case command == stream.CommandRAMDiscard:
	case command == stream.CommandPackaged && len(data) == 4:
		if _, err := t.in.Discard(int(binary.BigEndian.Uint32(data))); err != nil {
			return cut(err)
		}
	default:
		return fmt.Errorf("cannot understand what the source sends: %s", command)
	}
	return nil
}

// say tells the source something. One that does not listen any more goes on all the same: a target that gives up has told it so.
func (t *taker) say(what stream.MessageType, value uint32) {
	var m [8]byte
	binary.BigEndian.PutUint16(m[:], uint16(what))
	binary.BigEndian.PutUint16(m[2:], 4)
	binary.BigEndian.PutUint32(m[4:], value)
	_, _ = t.out.Write(m[:]) // if it has hung up, reading shows that
}

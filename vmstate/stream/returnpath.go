package stream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// MessageType says what the loading QEMU tells the source.
type MessageType uint16

// The messages of the return path. Only the first two, and SWITCHOVER_ACK where that capability is on, come
// without postcopy.
const (
	MessageShut          MessageType = 1 // the end; value 0: the stream was read without error
	MessagePong          MessageType = 2 // answers a PING; value: the number of the PING
	MessageReqPagesID    MessageType = 3 // postcopy: wants pages of the block that it names
	MessageReqPages      MessageType = 4 // postcopy: wants pages of the same block
	MessageRecvBitmap    MessageType = 5 // postcopy recovery; a bitmap follows outside of the message
	MessageResumeAck     MessageType = 6 // postcopy recovery
	MessageSwitchoverAck MessageType = 7 // devices allow to stop the guest
)

// length is how long a message of the type is; ok is false for a type that is not known.
func (t MessageType) length() (n int, ok bool) {
	switch t {
	case MessageShut, MessagePong, MessageResumeAck:
		return 4, true
	case MessageReqPages:
		return 12, true
	case MessageSwitchoverAck:
		return 0, true
	case MessageReqPagesID, MessageRecvBitmap:
		return anyLength, true
	}
	return 0, false
}

func (t MessageType) String() string {
	switch t {
	case MessageShut:
		return "SHUT"
	case MessagePong:
		return "PONG"
	case MessageReqPages:
		return "REQ_PAGES"
	case MessageReqPagesID:
		return "REQ_PAGES_ID"
	case MessageRecvBitmap:
		return "RECV_BITMAP"
	case MessageResumeAck:
		return "RESUME_ACK"
	case MessageSwitchoverAck:
		return "SWITCHOVER_ACK"
	}
	return fmt.Sprintf("message %d", uint16(t))
}

// Message is what the loading QEMU says on the return path.
type Message struct {
	Type   MessageType
	Value  uint32 // of SHUT, PONG and RESUME_ACK
	Block  string // of REQ_PAGES_ID and RECV_BITMAP
	Offset uint64 // of REQ_PAGES and REQ_PAGES_ID: in the block
	Length uint32 // of REQ_PAGES and REQ_PAGES_ID: bytes
}

// AppendPageRequest appends the message by which a target asks for pages of a block; an empty name stands for the block that was asked for last.
func AppendPageRequest(b []byte, block string, offset uint64, length uint32) []byte {
	kind, n := MessageReqPages, 12
	if block != "" {
		kind, n = MessageReqPagesID, 12+1+len(block)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(kind))
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = binary.BigEndian.AppendUint64(b, offset)
	b = binary.BigEndian.AppendUint32(b, length)
	if block != "" {
		b = appendCounted(b, block)
	}
	return b
}

// UnknownMessageError is a message of a type that no QEMU up to 11.1 sends. It has been read past.
type UnknownMessageError struct {
	Type   MessageType
	Length int
}

func (e *UnknownMessageError) Error() string {
	return fmt.Sprintf("cannot understand message of type %d, %d bytes, on the return path: the target is newer than known", uint16(e.Type), e.Length)
}

// errBitmap: what follows is not framed, and only a QEMU that recovers from a lost postcopy sends it.
var errBitmap = errors.New("cannot read the return path any further: a bitmap of received pages follows, as in postcopy recovery")

// ReturnPath reads what a loading QEMU writes back.
type ReturnPath struct {
	r   *bufio.Reader
	buf [1 << 16]byte
	err error
}

// NewReturnPath reads from r, which it may read ahead of.
func NewReturnPath(r io.Reader) *ReturnPath { return &ReturnPath{r: bufio.NewReader(r)} }

// Next waits for the next message. At the end of r it returns io.EOF, inside a message one that wraps
// io.ErrUnexpectedEOF. After an *UnknownMessageError it may be called on; any other error stays.
//
// A target that dies or gives up sends no message: QEMU before 9.1 exits, and the end of the return path is
// all that is seen. A SHUT with value 0 says only that the bytes were read; that the guest is loaded is
// what query-migrate of the target says.
func (p *ReturnPath) Next() (Message, error) {
	if p.err != nil {
		return Message{}, p.err
	}
	m, err := p.next()
	var unknown *UnknownMessageError
	if err != nil && !errors.As(err, &unknown) {
		p.err = err
	}
	return m, err
}

func (p *ReturnPath) next() (Message, error) {
	var head [4]byte
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		if err == io.EOF {
			return Message{}, io.EOF
		}
		return Message{}, fmt.Errorf("cannot read the return path: %w", err)
	}
	m := Message{Type: MessageType(binary.BigEndian.Uint16(head[:]))}
	n := int(binary.BigEndian.Uint16(head[2:]))
	want, known := m.Type.length()
	if known && want != anyLength && want != n {
		return m, fmt.Errorf("cannot read the return path: %s has %d bytes, should have %d", m.Type, n, want)
	}
	data := p.buf[:n]
	if _, err := io.ReadFull(p.r, data); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return m, fmt.Errorf("cannot read the return path inside %s: %w", m.Type, err)
	}
	if !known {
		return m, &UnknownMessageError{m.Type, n}
	}
	return p.decode(m, data)
}

func (p *ReturnPath) decode(m Message, data []byte) (Message, error) {
	c := cursor{b: data, end: len(data)}
	switch m.Type {
	case MessageShut, MessagePong, MessageResumeAck:
		m.Value = c.u32()
	case MessageReqPages:
		m.Offset, m.Length = c.u64(), c.u32()
	case MessageReqPagesID:
		m.Offset, m.Length = c.u64(), c.u32()
		m.Block = string(c.counted())
	case MessageRecvBitmap:
		m.Block = string(c.counted())
		p.err = errBitmap
	}
	if c.short || c.pos != c.end {
		return m, fmt.Errorf("cannot read the return path: %s of %d bytes is malformed", m.Type, len(data))
	}
	return m, nil
}

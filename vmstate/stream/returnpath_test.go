package stream_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"qlive/vmstate/stream"
)

// message is one message of the return path.
func message(kind, length uint16, data *builder) []byte {
	return new(builder).u16(kind).u16(length).raw(data.b).b
}

func TestReturnPath(t *testing.T) {
	value := func(v uint32) *builder { return new(builder).u32(v) }
	raw := bytes.Join([][]byte{
		message(2, 4, value(7)),
		message(7, 0, new(builder)),
		message(3, 19, new(builder).u64(4096).u32(8192).text("pc.ram")),
		message(4, 12, new(builder).u64(12288).u32(4096)),
		message(6, 4, value(1)),
		message(99, 3, new(builder).u8(1, 2, 3)),
		message(1, 4, value(0)),
	}, nil)
	want := []stream.Message{
		{Type: stream.MessagePong, Value: 7},
		{Type: stream.MessageSwitchoverAck},
		{Type: stream.MessageReqPagesID, Block: "pc.ram", Offset: 4096, Length: 8192},
		{Type: stream.MessageReqPages, Offset: 12288, Length: 4096},
		{Type: stream.MessageResumeAck, Value: 1},
		{Type: 99},
		{Type: stream.MessageShut},
	}
	p := stream.NewReturnPath(iotest.OneByteReader(bytes.NewReader(raw)))
	for _, m := range want {
		got, err := p.Next()
		var unknown *stream.UnknownMessageError
		if m.Type == 99 {
			if !errors.As(err, &unknown) || unknown.Type != 99 || unknown.Length != 3 || !strings.Contains(err.Error(), "type 99, 3 bytes") {
				t.Errorf("got %v, want an *UnknownMessageError", err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		if got != m {
			t.Errorf("got %+v, want %+v", got, m)
		}
	}
	for range 2 {
		if _, err := p.Next(); err != io.EOF {
			t.Errorf("got %v at the end, want io.EOF", err)
		}
	}
}

func TestReturnPathErrors(t *testing.T) {
	cases := []struct {
		name string
		raw  []byte
		want string
		is   error
	}{
		{"cut off head", []byte{0, 1}, "unexpected EOF", io.ErrUnexpectedEOF},
		{"cut off payload", []byte{0, 1, 0, 4, 0}, "inside SHUT", io.ErrUnexpectedEOF},
		{"payload missing", []byte{0, 2, 0, 4}, "inside PONG", io.ErrUnexpectedEOF},
		{"other length", message(1, 2, new(builder).u16(0)), "SHUT has 2 bytes, should have 4", nil},
		{"name longer than the message", message(3, 13, new(builder).u64(0).u32(0).u8(9)), "REQ_PAGES_ID of 13 bytes is malformed", nil},
		{"bytes behind the name", message(3, 15, new(builder).u64(0).u32(0).u8(0, 1, 2)), "REQ_PAGES_ID of 15 bytes is malformed", nil},
		{"cut off unknown", []byte{0, 50, 0, 4, 0}, "inside message 50", io.ErrUnexpectedEOF},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := stream.NewReturnPath(bytes.NewReader(c.raw))
			_, err := p.Next()
			if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if _, again := p.Next(); again != err {
				t.Errorf("then got %v", again)
			}
		})
	}
}

// Behind a bitmap nothing can be told apart.
func TestReturnPathStopsAtBitmap(t *testing.T) {
	p := stream.NewReturnPath(bytes.NewReader(message(5, 7, new(builder).text("pc.ram"))))
	m, err := p.Next()
	if err != nil || m.Block != "pc.ram" || m.Type != stream.MessageRecvBitmap {
		t.Fatalf("got %+v, %v", m, err)
	}
	if _, err := p.Next(); err == nil || !strings.Contains(err.Error(), "bitmap") {
		t.Errorf("then got %v", err)
	}
}

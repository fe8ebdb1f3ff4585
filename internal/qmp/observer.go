package qmp

import (
	"encoding/json"
	"time"
)

// Observer sees what passes over a connection: to time commands, to write a transcript. Its methods are called from
// several goroutines, within the sending of a command and the receipt of a message: they must be quick and never call
// the Client. A command is announced by Sent before it is written, and ends with exactly one Replied.
type Observer interface {
	Sent(Query)
	Replied(Reply)
	Event(Event)
}

// Query is a command as it goes out.
type Query struct {
	ID        uint64
	Command   string
	Arguments json.RawMessage // nil for none
	Sent      time.Time       // just before the write
}

// Reply is the end of a command. One that nobody asked for has no Command and no time of sending.
type Reply struct {
	Query
	Received time.Time
	Return   json.RawMessage // nil if Err is set
	Err      error           // *Error if QEMU refused; wraps ErrClosed if the connection ended first
}

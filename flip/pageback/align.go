package pageback

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"qlive/vmstate/stream"
)

// lastOfDevices are the bytes that the devices end with: POSTCOPY_RUN, the last in their package, and the PING behind it, 4 (postcopy_start in
// migration/migration.c, the same from 7.2 to 11.1).
var lastOfDevices = []byte{
	byte(stream.KindCommand), 0, byte(stream.CommandPostcopyRun), 0, 0,
	byte(stream.KindCommand), 0, byte(stream.CommandPing), 0, 4, 0, 0, 0, 4,
}

// devicesLoaded is the PING at the end of the devices without whose answer a QEMU since 10.2 does not come to an end (QEMU_VM_PING_PACKAGED_LOADED in
// migration/savevm.h). Others take no notice of it.
const devicesLoaded = 0x42

var errMiddle = errors.New("cannot read on where the target has stopped: it is in the middle of something")

// align reads up to where a section starts. A target that dies while it waits has read all, up to a section's end. Else it has left some of the devices,
// behind which no more of them come, or has stopped inside a section of pages: QEMU reads 32 KiB at once.
func (t *taker) align() error {
	if _, err := t.in.Peek(1); err != nil {
		return fmt.Errorf("cannot read on where the target has stopped: %w", err)
	}
	if t.atSection() {
		return nil
	}
	for {
		unread, _ := t.in.Peek(t.in.Buffered())
		devices := bytes.Index(unread, lastOfDevices)
		if devices < 0 {
			devices = len(unread)
		}
		for at := 0; at <= mostOfPage && at < devices; at++ {
			if t.chained(unread[at:]) {
				if at == stream.PageBytes { // the target knew which it is, and had nothing of it yet
					t.orphan = bytes.Clone(unread[:at])
				}
				if _, err := t.in.Discard(at); err != nil {
					return err
				}
				return t.records()
			}
		}
		if devices < len(unread) {
			_, err := t.in.Discard(devices + len(lastOfDevices))
			return err
		}
		if len(unread) == bufferBytes {
			return errMiddle
		}
		if _, err := t.in.Peek(len(unread) + 1); err != nil {
			return fmt.Errorf("%w, and then %w", errMiddle, err)
		}
	}
}

// command tells whether a command with so many bytes can come between the first page and the last.
func command(c stream.Command, length uint16) bool {
	return (c == stream.CommandPing || c == stream.CommandPackaged) && length == 4 || c == stream.CommandRAMDiscard && length > 2
}

// atSection tells whether what comes next can be a command, a section of pages, or the end.
func (t *taker) atSection() bool {
	switch kind, _ := t.in.Peek(1); stream.Kind(kind[0]) {
	case stream.KindEOF:
		return t.in.Buffered() == 1
	case stream.KindCommand:
		head, err := t.in.Peek(5)
		return err == nil && command(stream.Command(binary.BigEndian.Uint16(head[1:])), binary.BigEndian.Uint16(head[3:]))
	}
	head, err := t.in.Peek(13)
	if err != nil || stream.Kind(head[0]) != stream.KindPart && stream.Kind(head[0]) != stream.KindEnd {
		return false
	}
	return sectionID(head[1:]) && (binary.BigEndian.Uint64(head[5:]) == stream.FlagEOS || t.valid(binary.BigEndian.Uint64(head[5:])))
}

// sectionID tells whether b starts with a number that a section can have.
func sectionID(b []byte) bool { return len(b) >= 4 && binary.BigEndian.Uint32(b) < mostSections }

const (
	mostSections = 1 << 16                        // more than any guest has
	mostOfPage   = stream.PageBytes + 8 + 1 + 255 // what the rest of a page, with its name, takes at the most
	manyRecords  = 4                              // in a row are no accident
)

// valid tells whether a word can be what a page starts with.
func (t *taker) valid(word uint64) bool {
	flags, offset := word%stream.PageBytes, word/stream.PageBytes*stream.PageBytes
	for _, k := range t.blocks {
		if known(flags) && offset < k.Bytes {
			return true
		}
	}
	return false
}

// chained tells whether b starts with pages, one behind the other, to the end of their section, or many of them. The first is of the block that the
// target knew.
func (t *taker) chained(b []byte) bool {
	for n := range manyRecords {
		if len(b) < 8 {
			return false
		}
		word := binary.BigEndian.Uint64(b)
		if word == stream.FlagEOS {
			return len(b) >= 13 && b[8] == byte(stream.KindFooter) && sectionID(b[9:])
		}
		if !t.valid(word) || n == 0 && word&stream.FlagContinue == 0 {
			return false
		}
		size := 8 + 1
		if word&stream.FlagPage != 0 {
			size = 8 + stream.PageBytes
		}
		if word&stream.FlagContinue == 0 {
			name, ok := counted(b[8:])
			if !ok || t.named(name) == nil {
				return false
			}
			size += 1 + len(name)
		}
		if len(b) < size {
			return false
		}
		b = b[size:]
	}
	return true
}

// counted is a text behind its length.
func counted(b []byte) ([]byte, bool) {
	if len(b) == 0 || len(b) < 1+int(b[0]) {
		return nil, false
	}
	return b[1 : 1+int(b[0])], true
}

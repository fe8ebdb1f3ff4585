package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// RAMSectionID is the id of the "ram" section in a composed stream. QEMU numbers its own sections
// from 0 up, so that none of those copied from a source has it.
const RAMSectionID = 0x7fff0001

// flushBytes is how much is collected before it is written without being asked for.
const flushBytes = 256 << 10

// Config says what a composed stream claims to come from.
type Config struct {
	Machine      string // name of the machine's class, as the target resolves it: "pc-q35-7.2"
	IgnoreShared bool   // the target has the capability x-ignore-shared on; must agree with it
	PageBits     int    // 0 for machines whose page size is fixed (x86), else 12
}

// Finish says how a composed stream ends.
type Finish struct {
	// RunState replaces the run state that the source wrote; one of RunStates. Empty leaves it.
	RunState string

	// Ping, if not 0, asks for a PONG with this number once the devices are loaded, ahead of the SHUT
	// that says that the whole load is done.
	Ping uint32

	// NoDescription leaves out the description: only for a target with suppress-vmdesc=on. Any other
	// waits for it forever.
	NoDescription bool
}

// Composer writes a stream for a QEMU that waits with -incoming defer: what is not device state while
// the guest still runs elsewhere, the device state once it has stopped.
//
// The order is Begin, then Pages, Resize and Ping as often as needed, then Finish. Everything is
// collected and written by Ping, Flush and Finish (and every 256 KiB), so that what is given between the last
// Ping and Finish goes out with it in one write. The first error stays: each later call returns it.
// A Composer is for one goroutine.
type Composer struct {
	w      io.Writer
	config Configuration
	blocks []Block
	index  map[string]int // of blocks
	buf    []byte
	err    error
	phase  phase
	inRAM  bool // a PART is open
	last   int  // the block of its last page; -1 if none
}

type phase uint8

const (
	phaseNew phase = iota
	phaseBegun
	phaseFinished
)

// NewComposer prepares a stream that goes to w. Nothing is written yet.
func NewComposer(w io.Writer, config Config) (*Composer, error) {
	c := &Composer{w: w, config: Configuration{Machine: config.Machine, PageBits: config.PageBits}, last: -1}
	c.buf = make([]byte, 0, 2*flushBytes) // so that nothing grows while the guest stands
	if config.IgnoreShared {
		c.config.Capabilities = []string{CapabilityIgnoreShared}
	}
	if err := c.config.check(); err != nil {
		return nil, err
	}
	return c, nil
}

// Begin starts the stream: header, configuration, the command that opens the return path, and the
// table of blocks. It must list every block that the target has to agree on, those whose pages are not sent included;
// the target refuses a block that it does not know, and one whose size differs and cannot be changed.
func (c *Composer) Begin(blocks []Block) error {
	if err := c.ready(phaseNew); err != nil {
		return err
	}
	if err := c.checkTable(blocks); err != nil {
		return c.fail(err)
	}
	c.phase = phaseBegun
	c.buf = binary.BigEndian.AppendUint32(c.buf, Magic)
	c.buf = binary.BigEndian.AppendUint32(c.buf, Version)
	c.buf = c.config.append(c.buf)
	c.buf = appendCommand(c.buf, CommandOpenReturnPath)
	c.buf = appendHeader(c.buf, KindStart, RAMSectionID, Identity{ramName, 0, ramSectionVersion})
	c.buf = appendTable(c.buf, blocks, c.config.IgnoreShared())
	c.inRAM = true
	c.closeRAM()
	return nil
}

// checkTable takes the table over.
func (c *Composer) checkTable(blocks []Block) error {
	if len(blocks) == 0 {
		return errors.New("cannot compose a stream without RAM blocks")
	}
	c.blocks = append(c.blocks, blocks...)
	c.index = make(map[string]int, len(blocks))
	var total uint64
	for i, block := range blocks {
		if err := checkBlock(block); err != nil {
			return err
		}
		if _, twice := c.index[block.Name]; twice {
			return fmt.Errorf("cannot list RAM block %q twice", block.Name)
		}
		if block.Shared && !c.config.IgnoreShared() {
			return fmt.Errorf("cannot leave out RAM block %q: it is shared, and the stream is not x-ignore-shared", block.Name)
		}
		if total += block.Used; total < block.Used {
			return errors.New("cannot list RAM blocks of more than 2^64 bytes")
		}
		c.index[block.Name] = i
	}
	return nil
}

func checkBlock(block Block) error {
	if len(block.Name) > 255 || !printable([]byte(block.Name)) {
		return fmt.Errorf("cannot list a RAM block named %q: a name has 1 to 255 printable characters", block.Name)
	}
	if block.Used == 0 || block.Used%PageBytes != 0 {
		return fmt.Errorf("cannot list RAM block %q of %d bytes: not a multiple of %d", block.Name, block.Used, PageBytes)
	}
	return nil
}

// Pages sends a piece of a block: data belongs at offset, and both are multiples of the page size.
// Pages of zeros are sent as such. What is sent again replaces what was sent before. data is not kept.
func (c *Composer) Pages(block string, offset uint64, data []byte) error {
	if err := c.ready(phaseBegun); err != nil {
		return err
	}
	i, known := c.index[block]
	switch {
	case !known:
		return c.fail(fmt.Errorf("cannot send pages of RAM block %q: it is not in the table", block))
	case c.blocks[i].Shared:
		return c.fail(fmt.Errorf("cannot send pages of RAM block %q: it is shared, and the target refuses them", block))
	case offset%PageBytes != 0 || len(data)%PageBytes != 0:
		return c.fail(fmt.Errorf("cannot send %d bytes at %d of RAM block %q: not whole pages", len(data), offset, block))
	case offset > c.blocks[i].Used || uint64(len(data)) > c.blocks[i].Used-offset:
		return c.fail(fmt.Errorf("cannot send %d bytes at %d of RAM block %q: it has %d", len(data), offset, block, c.blocks[i].Used))
	}
	for ; len(data) > 0; data, offset = data[PageBytes:], offset+PageBytes {
		c.openRAM()
		name := block
		if c.last == i {
			name = ""
		}
		c.buf, c.last = appendPage(c.buf, name, offset, data[:PageBytes]), i
		if len(c.buf) >= flushBytes {
			if err := c.write(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Resize says that a block has another size than the table said: firmware tables grow when a guest
// starts anew. The target resizes it, if it is of those that can be.
func (c *Composer) Resize(block string, used uint64) error {
	if err := c.ready(phaseBegun); err != nil {
		return err
	}
	i, known := c.index[block]
	if !known {
		return c.fail(fmt.Errorf("cannot resize RAM block %q: it is not in the table", block))
	}
	resized := c.blocks[i]
	resized.Used = used
	if err := checkBlock(resized); err != nil {
		return c.fail(err)
	}
	c.blocks[i] = resized
	c.openRAM()
	c.buf = appendTable(c.buf, c.blocks[i:i+1], c.config.IgnoreShared())
	return nil
}

// Ping asks for a PONG with number n, and writes all that was collected. The target answers once it
// has loaded everything ahead of it, so the PONG proves that all of it fits.
func (c *Composer) Ping(n uint32) error {
	if err := c.ready(phaseBegun); err != nil {
		return err
	}
	c.closeRAM()
	c.buf = appendPing(c.buf, n)
	return c.write()
}

// Flush writes all that was collected.
func (c *Composer) Flush() error {
	if err := c.ready(phaseBegun); err != nil {
		return err
	}
	return c.write()
}

// Finish ends the stream with the devices' state, which is what xen-save-devices-state wrote, whole.
// It is checked before any of it is written. One whose error wraps ErrAmbiguous is sent all the same, as
// it is, if its run state may stay "running": QEMU itself is not confused by it.
func (c *Composer) Finish(deviceState []byte, how Finish) error {
	if err := c.ready(phaseBegun); err != nil {
		return err
	}
	body, patch, err := c.checkDevices(deviceState, how)
	if err != nil {
		return c.fail(err)
	}
	c.closeRAM()
	c.buf = binary.BigEndian.AppendUint32(append(c.buf, byte(KindEnd)), RAMSectionID)
	c.inRAM = true
	c.closeRAM()
	at := len(c.buf)
	c.buf = append(c.buf, body...)
	if patch >= 0 {
		setRunState(c.buf[at+patch:at+patch+globalStateBytes], how.RunState)
	}
	if how.Ping != 0 {
		c.buf = appendPing(c.buf, how.Ping)
	}
	c.buf = append(c.buf, byte(KindEOF))
	if !how.NoDescription {
		const nothing = "{}"
		c.buf = binary.BigEndian.AppendUint32(append(c.buf, byte(KindDescription)), uint32(len(nothing)))
		c.buf = append(c.buf, nothing...)
	}
	c.phase = phaseFinished
	return c.write()
}

// checkDevices gives the sections of a device state without header and EOF, and where in them the
// run state's section has its payload; patch is -1 if that is to stay as it is.
func (c *Composer) checkDevices(state []byte, how Finish) (body []byte, patch int, err error) {
	if how.RunState != "" {
		if err := checkRunState(how.RunState); err != nil {
			return nil, -1, err
		}
	}
	parsed, err := Parse(state)
	if errors.Is(err, ErrAmbiguous) && (how.RunState == "" || how.RunState == savedRunState) {
		return state[headerBytes : len(state)-1], -1, nil
	}
	if err != nil {
		return nil, -1, err
	}
	if parsed.Configuration != nil || parsed.Description != nil {
		return nil, -1, errors.New("cannot take the devices' state from a whole migration stream: give what xen-save-devices-state wrote")
	}
	for i := range parsed.Sections {
		if s := &parsed.Sections[i]; s.Kind != KindFull || s.ID == RAMSectionID {
			return nil, -1, fmt.Errorf("cannot take over %s at offset %d: only devices' state is expected", s, s.Offset)
		}
	}
	if how.RunState == "" {
		return state[headerBytes : len(state)-1], -1, nil
	}
	payload, err := globalState(state, parsed.Sections)
	if err != nil {
		return nil, -1, err
	}
	return state[headerBytes : len(state)-1], payload - headerBytes, nil
}

// ready says why a call cannot be obeyed now.
func (c *Composer) ready(want phase) error {
	if c.err == nil && c.phase != want {
		switch c.phase {
		case phaseNew:
			return c.fail(errors.New("cannot compose a stream before it has begun"))
		case phaseBegun:
			return c.fail(errors.New("cannot begin a stream twice"))
		default:
			return c.fail(errors.New("cannot compose further: the stream is finished"))
		}
	}
	return c.err
}

func (c *Composer) fail(err error) error {
	c.err = err
	return err
}

// write sends what was collected. It may end inside a section; only Ping and Finish make that not so.
func (c *Composer) write() error {
	_, err := c.w.Write(c.buf)
	c.buf = c.buf[:0]
	if err != nil {
		return c.fail(fmt.Errorf("cannot write to the target: %w", err))
	}
	return nil
}

// openRAM makes sure that a PART is open. Each section names its block anew.
func (c *Composer) openRAM() {
	if !c.inRAM {
		c.buf = binary.BigEndian.AppendUint32(append(c.buf, byte(KindPart)), RAMSectionID)
		c.inRAM, c.last = true, -1
	}
}

func (c *Composer) closeRAM() {
	if c.inRAM {
		c.buf = binary.BigEndian.AppendUint64(c.buf, FlagEOS)
		c.buf = appendFooter(c.buf, RAMSectionID)
		c.inRAM = false
	}
}

func appendHeader(b []byte, kind Kind, id uint32, identity Identity) []byte {
	b = binary.BigEndian.AppendUint32(append(b, byte(kind)), id)
	b = appendCounted(b, identity.Name)
	b = binary.BigEndian.AppendUint32(b, identity.Instance)
	return binary.BigEndian.AppendUint32(b, identity.Version)
}

func appendFooter(b []byte, id uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, byte(KindFooter)), id)
}

// appendCommand writes a COMMAND without data.
func appendCommand(b []byte, command Command) []byte {
	return append(binary.BigEndian.AppendUint16(append(b, byte(KindCommand)), uint16(command)), 0, 0)
}

func appendPing(b []byte, n uint32) []byte {
	b = binary.BigEndian.AppendUint16(append(b, byte(KindCommand)), uint16(CommandPing))
	return binary.BigEndian.AppendUint32(append(b, 0, 4), n)
}

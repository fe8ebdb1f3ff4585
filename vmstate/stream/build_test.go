package stream_test

import (
	"encoding/binary"

	"qlive/vmstate/stream"
)

// builder writes streams as a QEMU could, and as none would.
type builder struct{ b []byte }

func header() *builder {
	return new(builder).u32(stream.Magic).u32(stream.Version)
}

func (w *builder) u8(v ...byte) *builder { w.b = append(w.b, v...); return w }
func (w *builder) u16(v uint16) *builder { w.b = binary.BigEndian.AppendUint16(w.b, v); return w }
func (w *builder) u32(v uint32) *builder { w.b = binary.BigEndian.AppendUint32(w.b, v); return w }
func (w *builder) u64(v uint64) *builder { w.b = binary.BigEndian.AppendUint64(w.b, v); return w }
func (w *builder) raw(v []byte) *builder { w.b = append(w.b, v...); return w }

func (w *builder) text(s string) *builder { return w.u8(byte(len(s))).raw([]byte(s)) }

// open starts a START or FULL section.
func (w *builder) open(kind stream.Kind, id uint32, name string, version uint32) *builder {
	return w.u8(byte(kind)).u32(id).text(name).u32(0).u32(version)
}

func (w *builder) footer(id uint32) *builder { return w.u8(0x7e).u32(id) }

// full is a whole device section.
func (w *builder) full(id uint32, name string, payload []byte) *builder {
	return w.open(stream.KindFull, id, name, 1).raw(payload).footer(id)
}

// ram starts the "ram" section with a table of one block of two pages.
func (w *builder) ram() *builder {
	return w.open(stream.KindStart, 1, "ram", 4).u64(2*stream.PageBytes | 0x04).text("pc.ram").u64(2 * stream.PageBytes)
}

func (w *builder) eof() []byte { return w.u8(0).b }

// described is a stream that ends with a description of these devices.
func (w *builder) described(json string) []byte {
	return w.u8(0, 0x06).u32(uint32(len(json))).raw([]byte(json)).b
}

// globalState is a payload as QEMU 8.2 and later write it.
func globalState(state string) []byte {
	payload := make([]byte, 104)
	binary.BigEndian.PutUint32(payload, uint32(len(state)+1))
	copy(payload[4:], state)
	payload[36], payload[37] = 1, 1 // has_vm_was_suspended, vm_was_suspended
	return payload
}

// devices is what xen-save-devices-state might write.
func devices() []byte {
	return header().full(0, "timer", make([]byte, 24)).full(41, "globalstate", globalState("running")).eof()
}

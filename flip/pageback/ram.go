package pageback

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"qlive/vmstate/stream"
)

func known(flags uint64) bool {
	kind := flags &^ stream.FlagContinue
	return kind == stream.FlagZero || kind == stream.FlagPage
}

// ram reads a section of pages.
func (t *taker) ram() error {
	if _, err := t.in.Discard(4); err != nil { // its number
		return cut(err)
	}
	return t.records()
}

// records reads pages up to the end of their section.
func (t *taker) records() error {
	var word [8]byte
	for {
		if _, err := io.ReadFull(t.in, word[:]); err != nil {
			return cut(err)
		}
		address := binary.BigEndian.Uint64(word[:])
		flags := address % stream.PageBytes
		if flags == stream.FlagEOS {
			return t.footer()
		}
		if !known(flags) {
			return fmt.Errorf("cannot understand what the source sends: a page with flags %#x", flags)
		}
		if err := t.page(address-flags, flags); err != nil {
			return err
		}
	}
}

// footer reads past what ends a section; a machine type of QEMU 2.3 or older has none.
func (t *taker) footer() error {
	next, err := t.in.Peek(1)
	if err == nil && next[0] == byte(stream.KindFooter) {
		_, err = t.in.Discard(5)
	}
	if err != nil {
		return cut(err)
	}
	return nil
}

// page reads one page.
func (t *taker) page(offset, flags uint64) error {
	if flags&stream.FlagContinue == 0 {
		if err := t.name(); err != nil {
			return err
		}
	}
	var data []byte
	size := 1
	if flags&stream.FlagPage != 0 {
		size = stream.PageBytes
	}
	data, err := t.in.Peek(size)
	if err != nil {
		return cut(err)
	}
	if size == 1 {
		data = nil
	}
	if t.block == nil {
		err = t.nameless.keep(t, offset, data)
	} else if offset >= t.block.Bytes {
		err = fmt.Errorf("cannot understand what the source sends: a page at %d of RAM block %s", offset, t.block.Name)
	} else {
		t.nameless.exclude(t.block, offset)
		err = t.block.keep(offset, data)
	}
	if err != nil {
		return err
	}
	_, err = t.in.Discard(size)
	return err
}

// name reads which block the page and those behind it are of.
func (t *taker) name() error {
	n, err := t.in.ReadByte()
	if err != nil {
		return cut(err)
	}
	name, err := t.in.Peek(int(n))
	if err != nil {
		return cut(err)
	}
	if t.block = t.named(name); t.block == nil {
		return fmt.Errorf("cannot understand what the source sends: a page of RAM block %q, which it does not have", name)
	}
	_, err = t.in.Discard(len(name))
	return err
}

func (p *Pages) named(name []byte) *kept {
	for _, k := range p.blocks {
		if k.Name == string(name) {
			return k
		}
	}
	return nil
}

// nameless is pages of a block that was named in what the target had read. Each page is sent once, so that the block is the one of which none of them
// comes otherwise.
type nameless struct {
	among []*kept           // blocks that it may be
	pages map[uint64][]byte // nil for zeroes
}

// mostNameless bounds how many of them wait.
const mostNameless = 16384

// keep keeps a page until it is known what it is of.
func (n *nameless) keep(t *taker, offset uint64, data []byte) error {
	if n.pages == nil {
		n.pages = make(map[uint64][]byte)
	}
	n.pages[offset] = slices.Clone(data)
	n.among = slices.DeleteFunc(n.among, func(k *kept) bool { return offset >= k.Bytes || marked(k.came, offset) || k.placed(offset) })
	if len(n.among) == 1 {
		t.block = n.among[0]
		return n.settle()
	}
	if len(n.among) == 0 || len(n.pages) > mostNameless {
		return errNameless
	}
	return nil
}

var errNameless = errors.New("cannot tell which RAM block the pages are of that the source has sent first")

// exclude notes that a page of k has come, so that no nameless one is that.
func (n *nameless) exclude(k *kept, offset uint64) {
	if _, ok := n.pages[offset]; ok {
		n.among = slices.DeleteFunc(n.among, func(other *kept) bool { return other == k })
	}
}

// settle gives the pages to the one block that they can be of.
func (n *nameless) settle() error {
	if len(n.pages) == 0 {
		return nil
	}
	if len(n.among) != 1 {
		return errNameless
	}
	for offset, data := range n.pages {
		if err := n.among[0].keep(offset, data); err != nil {
			return err
		}
	}
	n.pages = nil
	return nil
}

package pageback

import (
	"fmt"

	"qlive/internal/proc"
)

// Check makes sure that all of what source pid has sent is here, and that it may be put back. Sent is how many pages it says it has sent that were no
// zeroes. What the target had read and not placed may be among the spares.
//
// It is here if each page has come, or the target had placed it, or the source has it still. Else it is enough that as many pages that are no zeroes are
// here as were sent: then what is missing was zeroes. A page that was
// sent before the switch and again after it counts twice.
func (p *Pages) Check(pid int, sent int64, spares *Spares) error {
	source, err := proc.OpenPagemap(pid)
	if err != nil {
		return err
	}
	defer source.Close()
	var here int64
	var lost error
	all := 0
	for _, k := range p.blocks {
		if err := k.replace(spares); err != nil {
			return err
		}
		n, at, err := k.missing(source)
		if err != nil {
			return err
		}
		if all += n; n == 1 && all == 1 && p.orphan != nil && p.last(k, source) { // then it is this
			if err := k.keep(at, p.orphan); err != nil {
				return err
			}
			n = 0
		}
		if n > 0 {
			lost = fmt.Errorf("cannot bring back %d pages of RAM block %s: the target had read and not placed them", n, k.Name)
		}
	}
	if lost == nil {
		return nil
	}
	for _, k := range p.blocks {
		n, err := k.notZero()
		if err != nil {
			return err
		}
		here += n + spares.again(k)
	}
	if here == sent {
		return nil
	}
	return fmt.Errorf("%w: %d pages were sent, and %d are here", lost, sent, here)
}

// last tells whether no page is missing of the blocks behind k.
func (p *Pages) last(k *kept, source *proc.Pagemap) bool {
	behind := false
	for _, other := range p.blocks {
		if n, _, err := other.missing(source); behind && (err != nil || n > 0) {
			return false
		}
		behind = behind || other == k
	}
	return true
}

// replace takes from the spares what the target had read and not placed.
func (k *kept) replace(spares *Spares) error {
	for offset, data := range spares.of(k.Name) {
		if marked(k.came, offset) || k.placed(offset) {
			continue
		}
		if err := k.keep(offset, data); err != nil {
			return err
		}
	}
	return nil
}

// notZero counts the pages that are here and no zeroes.
func (k *kept) notZero() (n int64, err error) {
	n = int64(k.full)
	err = k.eachFull(func(offset uint64) {
		if !marked(k.came, offset) {
			n++
		}
	})
	return n, err
}

package move

import (
	"errors"

	"qlive/flip/memory"
)

// Where huge pages are moved into huge pages of the same pool, promises follow the chunks: what a chunk needs is promised before it is copied, and what it had
// is given back behind it, so that no more is ever promised than the RAM and the chunks in flight. In between, for some microseconds, what one chunk has given
// back is anybody's: the kernel has no way to pass it on. If somebody takes it the move ends with an error and is taken back by the workers that have one left.

// Promise has the first chunks in flight promised on the new side, so that a pool that is too small is found before the guest stands. What is promised by
// whoever has made the files is left to them. Of a Promise that fails nothing is left; the error is one that [memory.IsShort] knows.
func (m *Mover) Promise() error {
	var all []chunk
	var n uint64
	for _, k := range m.chunks {
		if !m.follows[k.region] {
			continue
		}
		if n >= m.InFlightBytes() {
			break
		}
		r := m.cfg.New.Regions()[k.region]
		if err := r.Promise(k.start, k.end); err != nil {
			for _, p := range all {
				e := &end{Region: m.cfg.New.Regions()[p.region], huge: true}
				err = errors.Join(err, e.fill(p.start, p.end), e.free(p.start, p.end))
			}
			return err
		}
		all = append(all, k)
		n += k.end - k.start
	}
	return nil
}

// promise has what chunk i needs promised where it goes, if that has not been done for all of the region.
func (j *job) promise(i int) error {
	k := j.chunks[i]
	if !j.follows[k.region] {
		return nil
	}
	return j.at[k.region].Promise(k.start, k.end)
}

// release frees chunk i where it came from, and has promised what the next one needs.
func (j *job) release(i, next int) error {
	switch {
	case next < 0:
		return j.freeAndKeep(i) // for the way back
	case !j.follows[j.chunks[i].region]:
		return errors.Join(j.freeAndKeep(i), j.promise(next))
	case !j.follows[j.chunks[next].region]:
		return j.freeAndKeep(i)
	}
	k, n := j.chunks[i], j.chunks[next]
	j.pool.Lock() // what one worker has given back is its own to have promised again
	defer j.pool.Unlock()
	return exchange(j.from[k.region], k, j.at[n.region], n)
}

// exchange frees a chunk of one file, and has promised what a chunk of a file needs, which may be the same. Holes are not asked for their promises as long as the
// pool has others, since they must be filled to give them back.
func exchange(src *end, k chunk, dst *end, n chunk) error {
	if !src.full {
		err := dst.Promise(n.start, n.end)
		if err == nil {
			return src.free(k.start, k.end)
		}
		if !memory.IsShort(err) {
			return err
		}
		if err := src.fill(k.start, k.end); err != nil {
			return err
		}
	}
	if err := src.free(k.start, k.end); err != nil {
		return err
	}
	return dst.Promise(n.start, n.end)
}

// free frees chunk i where it came from. Huge pages stay promised there if they do not follow the chunk.
func (j *job) free(i int) error {
	k := j.chunks[i]
	if j.follows[k.region] {
		return j.from[k.region].free(k.start, k.end)
	}
	return j.freeAndKeep(i)
}

// freeAndKeep frees chunk i where it came from. Huge pages stay promised there, for the way back, unless somebody has taken them in the moment between.
func (j *job) freeAndKeep(i int) error {
	k := j.chunks[i]
	src := j.from[k.region]
	if src.huge {
		j.pool.Lock()
		defer j.pool.Unlock()
	}
	err := src.again(k.start, k.end)
	if memory.IsShort(err) {
		j.loose.Add(k.end - k.start)
		err = nil
	}
	return err
}

// recall gives back what an attempt that was cut short had promised where the chunks come from now. Chunks are taken in order, so that it lies in the first ones
// that did not come there, as many as there were workers.
func (j *job) recall() error {
	left := 2 * j.cfg.Workers
	for i, k := range j.chunks {
		if left == 0 {
			break
		}
		if !j.follows[k.region] || j.cfg.Ledger.side(i) != j.to {
			continue
		}
		src := j.from[k.region]
		if err := errors.Join(src.fill(k.start, k.end), src.free(k.start, k.end)); err != nil {
			return err
		}
		left--
	}
	return nil
}

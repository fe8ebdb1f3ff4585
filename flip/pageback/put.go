package pageback

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"qlive/internal/proc"
	"qlive/vmstate/stream"
)

// pieceBytes is how much is put back, and freed here, at once.
const pieceBytes = 1 << 20

// Put writes all pages back into process pid, which has freed them, and frees them here. If it fails, some of the guest is neither here nor there.
func (p *Pages) Put(ctx context.Context, pid int) error {
	for _, k := range p.blocks {
		if err := k.put(ctx, pid); err != nil {
			return fmt.Errorf("cannot put RAM block %s back into process %d: %w", k.Name, pid, err)
		}
	}
	return nil
}

func (k *kept) put(ctx context.Context, pid int) error {
	for offset, data := range k.pages {
		if err := proc.WriteMemory(pid, k.At+offset, data); err != nil {
			return err
		}
	}
	if k.File == nil {
		return nil
	}
	piece := make([]byte, pieceBytes)
	return eachData(k.File, k.Bytes, func(start, end int64) error {
		for at := start; at < end; at += pieceBytes {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := k.putPiece(pid, at, piece[:min(pieceBytes, end-at)]); err != nil {
				return err
			}
		}
		return nil
	})
}

// putPiece puts back what the file has from start on, page by page but for those of zeroes, and frees it.
func (k *kept) putPiece(pid int, start int64, piece []byte) error {
	if _, err := k.File.ReadAt(piece, start); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for from := 0; from < len(piece); {
		to := from
		for to < len(piece) && !isZero(piece[to:to+stream.PageBytes]) {
			to += stream.PageBytes
		}
		if err := proc.WriteMemory(pid, k.At+uint64(start)+uint64(from), piece[from:to]); err != nil {
			return err
		}
		for from = to; from < len(piece) && isZero(piece[from:from+stream.PageBytes]); {
			from += stream.PageBytes
		}
	}
	return unix.Fallocate(int(k.File.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, start, int64(len(piece)))
}

func isZero(page []byte) bool { return page[0] == 0 && bytes.Equal(page[1:], page[:len(page)-1]) }

package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"qlive/internal/room"
	"qlive/vmstate"
)

// Journal is an open journal: its one writer. Its methods may be called by several goroutines at once.
type Journal struct {
	path string

	mu   sync.Mutex
	file file
	next uint64 // number of the next line
	size int64  // of the file: where the next line starts
	line []byte // kept for the next Append
	dead error  // why nothing can be appended any more
}

// file is what the journal asks of its file, so that a test can fail each call.
type file interface {
	io.WriteCloser
	Truncate(size int64) error
}

// Open opens the journal at path for appending, and makes it, 0600, if it is not there. A record that was torn by
// the death of its writer is removed. The errors are those of [Read], and kind Busy if the journal has a writer.
func Open(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot open journal: %w", err)
	}
	j := &Journal{path: path, file: f}
	if err := j.start(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return j, nil
}

// start finds the journal's end, and makes it fit for the next line.
func (j *Journal) start(f *os.File) error {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return vmstate.Errorf(vmstate.Busy, "cannot open journal %s: another process writes it: %w", j.path, err).
			With("stop the other daemon, or give this one a run directory of its own")
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot read journal: %w", err)
	}
	c, err := decode(j.path, text)
	if err != nil && !errors.Is(err, ErrTorn) {
		return err
	}
	j.next, j.size = c.next, int64(c.end)
	if j.size < int64(len(text)) {
		if err := f.Truncate(j.size); err != nil {
			return vmstate.Errorf(vmstate.Host, "cannot remove the torn record of journal %s: %w", j.path, err)
		}
	}
	if !c.newline {
		if err := j.write([]byte("\n")); err != nil {
			return err
		}
	}
	if j.next == 0 {
		return j.Append(header{formatName, formatLevel})
	}
	return nil
}

// Append writes record, anything that encoding/json takes, as the next line. Once it returns nil the record
// outlives this process. On an error the journal is as it was before, and the next Append may succeed. Only if half a
// record cannot be taken out again does every further Append fail; that record may then be found by a reader or not.
func (j *Journal) Append(record any) error {
	var data bytes.Buffer
	enc := json.NewEncoder(&data)
	enc.SetEscapeHTML(false) // people read this
	if err := enc.Encode(record); err != nil {
		return vmstate.Errorf(vmstate.Internal, "cannot write a %T into journal %s: %w", record, j.path, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.line = appendLine(j.line[:0], j.next, time.Now(), bytes.TrimSuffix(data.Bytes(), []byte("\n")))
	if err := j.write(j.line); err != nil {
		return err
	}
	j.next++
	return nil
}

// write writes line in one call. A line that the file took only in part is taken out again, lest the next one
// stand behind half a record. The caller holds mu.
func (j *Journal) write(line []byte) error {
	if j.dead != nil {
		return j.dead
	}
	n, err := j.file.Write(line)
	if err == nil {
		j.size += int64(n)
		return nil
	}
	err = room.Explain(filepath.Dir(j.path), vmstate.Errorf(vmstate.Host, "cannot write journal %s: %w", j.path, err))
	if n > 0 {
		if undo := j.file.Truncate(j.size); undo != nil {
			j.dead = fmt.Errorf("%w; and half a record cannot be taken out of it again: %w", err, undo)
			return j.dead
		}
	}
	return err
}

// Close closes the file. Nothing can be appended afterwards.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if errors.Is(j.dead, os.ErrClosed) {
		return nil
	}
	j.dead = vmstate.Errorf(vmstate.Internal, "cannot write journal %s: %w", j.path, os.ErrClosed)
	return j.file.Close()
}

// Read reads the journal at path, which may have a writer meanwhile. If the last record is torn the error is
// [ErrTorn], by errors.Is, and the records before it are returned and can be relied on. With any other error there are
// no records: fs.ErrNotExist if there is no journal, kind Unsupported if a newer qlive wrote it, kind Host if it
// was changed or cannot be read.
func Read(path string) ([]Record, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot read journal: %w", err)
	}
	c, err := decode(path, text)
	return c.records, err
}

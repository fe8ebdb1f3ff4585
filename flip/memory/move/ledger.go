package move

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"qlive/internal/atomicfile"
	"qlive/vmstate"
)

// Side is one of the two sets of files.
type Side byte

// The sides, as they stand in the ledger's file.
const (
	InOld Side = 'o'
	InNew Side = 'n'
)

// Other is the other side.
func (s Side) Other() Side {
	if s == InOld {
		return InNew
	}
	return InOld
}

// Plan is what a ledger is of: the regions, the files on both sides, and how large a chunk is.
type Plan struct {
	Version    int      `json:"version"`   // of the format, 1
	Migration  string   `json:"migration"` // that moves the RAM
	ChunkBytes uint64   `json:"chunk_bytes"`
	Regions    []Region `json:"regions"`
}

// Region is a region in a plan.
type Region struct {
	Name      string `json:"name"`
	SizeBytes uint64 `json:"size_bytes"`
	Old       File   `json:"old"`
	New       File   `json:"new"`
}

// File names a file for as long as it lives.
type File struct {
	Dev   uint64 `json:"dev"`
	Inode uint64 `json:"inode"`
}

// version is that of the ledger's format.
const version = 1

// maxChunks bounds what is read as a ledger: a guest of 64 TiB in chunks of 4 MiB.
const maxChunks = 16 << 20

// chunk is a piece of a region.
type chunk struct {
	region     int
	start, end uint64
}

// chunks are the pieces in the order of the ledger. The last of a region may be short.
func (p Plan) chunks() []chunk {
	var all []chunk
	for i, r := range p.Regions {
		for at := uint64(0); at < r.SizeBytes; at += p.ChunkBytes {
			all = append(all, chunk{i, at, min(at+p.ChunkBytes, r.SizeBytes)})
		}
	}
	return all
}

// check refuses a plan that no mover can have made.
func (p Plan) check() error {
	const page = 4096
	switch {
	case p.Version != version:
		return fmt.Errorf("its version is %d, and %d is known here", p.Version, version)
	case p.ChunkBytes == 0 || p.ChunkBytes%page != 0:
		return fmt.Errorf("its chunks of %d bytes are no pages", p.ChunkBytes)
	case len(p.Regions) == 0:
		return errors.New("it has no regions")
	}
	left := uint64(maxChunks)
	for _, r := range p.Regions {
		n := r.SizeBytes / p.ChunkBytes
		if r.SizeBytes == 0 || n >= left {
			return fmt.Errorf("its region %q has %d bytes", r.Name, r.SizeBytes)
		}
		left -= n + 1
	}
	return nil
}

// Ledger says of each chunk on which side it is. Its methods may be called by several goroutines at once.
type Ledger struct {
	plan  Plan
	file  *os.File
	first int64 // where the chunks begin in the file

	mu    sync.Mutex
	sides []byte
	news  int
}

// CreateLedger writes a ledger in which every chunk is on the old side. It takes the place of one that is there.
func CreateLedger(path string, p Plan) (*Ledger, error) {
	p.Version = version
	if err := p.check(); err != nil {
		return nil, vmstate.Errorf(vmstate.Internal, "cannot keep a ledger of the guest's RAM: %w", err)
	}
	head, err := json.Marshal(p)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Internal, "cannot keep a ledger of the guest's RAM: %w", err)
	}
	head = append(head, '\n')
	sides := bytes.Repeat([]byte{byte(InOld)}, len(p.chunks()))
	if err := atomicfile.Write(path, slices.Concat(head, sides, []byte("\n")), 0o600); err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot write the ledger of the guest's RAM: %w", err).With("make room in the run directory")
	}
	return open(path, p, sides, len(head))
}

// OpenLedger takes up a ledger that was left. The error wraps fs.ErrNotExist if there is none.
func OpenLedger(path string) (*Ledger, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the ledger of the guest's RAM: %w", err)
	}
	p, sides, err := parse(text)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot understand the ledger of the guest's RAM, %s: %w", path, err).
			With("nothing of this guest's RAM may be given up: keep both QEMUs, and look at the file")
	}
	return open(path, p, sides, bytes.IndexByte(text, '\n')+1)
}

func open(path string, p Plan, sides []byte, first int) (*Ledger, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, vmstate.Errorf(vmstate.Host, "cannot open the ledger of the guest's RAM: %w", err)
	}
	return &Ledger{plan: p, file: f, first: int64(first), sides: sides, news: bytes.Count(sides, []byte{byte(InNew)})}, nil
}

// parse reads a ledger: a line of JSON, the plan, and a line with one letter for each chunk.
func parse(text []byte) (Plan, []byte, error) {
	var p Plan
	head, rest, ok := bytes.Cut(text, []byte("\n"))
	if !ok {
		return p, nil, errors.New("its first line has no end")
	}
	if err := json.Unmarshal(head, &p); err != nil {
		return p, nil, err
	}
	if err := p.check(); err != nil {
		return p, nil, err
	}
	sides, after, ok := bytes.Cut(rest, []byte("\n"))
	if !ok || len(after) > 0 {
		return p, nil, errors.New("it has not two lines")
	}
	if want := len(p.chunks()); len(sides) != want {
		return p, nil, fmt.Errorf("it has %d chunks, and its plan %d", len(sides), want)
	}
	if i := bytes.IndexFunc(sides, func(r rune) bool { return r != rune(InOld) && r != rune(InNew) }); i >= 0 {
		return p, nil, fmt.Errorf("chunk %d is on no side", i)
	}
	return p, sides, nil
}

// Plan is what the ledger is of.
func (l *Ledger) Plan() Plan { return l.plan }

// Away tells whether any chunk is on the new side.
func (l *Ledger) Away() bool { return l.onNew() > 0 }

// Moved tells whether every chunk is on the new side.
func (l *Ledger) Moved() bool { return l.onNew() == len(l.sides) }

func (l *Ledger) onNew() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.news
}

// side is where chunk i is.
func (l *Ledger) side(i int) Side {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Side(l.sides[i])
}

// put says that chunk i is on a side, and returns once a killed daemon's successor will read it.
func (l *Ledger) put(i int, s Side) error {
	if _, err := l.file.WriteAt([]byte{byte(s)}, l.first+int64(i)); err != nil {
		return vmstate.Errorf(vmstate.Host, "cannot write the ledger of the guest's RAM: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if Side(l.sides[i]) != s {
		l.sides[i] = byte(s)
		if s == InNew {
			l.news++
		} else {
			l.news--
		}
	}
	return nil
}

// Close lets go of the ledger; its file stays.
func (l *Ledger) Close() error {
	if l == nil {
		return nil
	}
	return l.file.Close()
}

// RemoveLedger removes the file of a ledger that is of no use any more; none is as good.
func RemoveLedger(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove the ledger of the guest's RAM: %w", err)
	}
	return nil
}

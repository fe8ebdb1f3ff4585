package proc

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Mapping is a line of /proc/PID/maps.
type Mapping struct {
	Start, End uint64 // addresses, the second one exclusive
	Read       bool
	Write      bool
	Exec       bool
	Shared     bool   // MAP_SHARED; otherwise private, copied on write
	Offset     uint64 // in the file, bytes
	DevMajor   uint32
	DevMinor   uint32
	Inode      uint64 // 0: no file
	Path       string // as the kernel writes it, with "\n" as \012; " (deleted)" is part of it
}

// Len is the mapping's length in bytes.
func (m Mapping) Len() uint64 { return m.End - m.Start }

// ReadMaps reads the mappings of a process, by rising address.
func ReadMaps(pid int) ([]Mapping, error) {
	f, err := os.Open(file(pid, "maps"))
	if err != nil {
		return nil, fmt.Errorf("cannot read the mappings of process %d: %w", pid, err)
	}
	defer f.Close()
	maps, err := ParseMaps(f)
	if err != nil {
		return nil, fmt.Errorf("cannot read the mappings of process %d: %w", pid, err)
	}
	return maps, nil
}

// ParseMaps reads the text of a maps file.
func ParseMaps(r io.Reader) ([]Mapping, error) {
	var maps []Mapping
	s := newScanner(r)
	for s.Scan() {
		m, err := parseMapping(s.Text())
		if err != nil {
			return nil, err
		}
		maps = append(maps, m)
	}
	return maps, s.Err()
}

func parseMapping(line string) (Mapping, error) {
	bad := func() (Mapping, error) { return Mapping{}, fmt.Errorf("cannot understand the mapping %q", line) }
	fields, path := cutFields(line, 5)
	if len(fields) != 5 {
		return bad()
	}
	start, end, ok := strings.Cut(fields[0], "-")
	major, minor, ok2 := strings.Cut(fields[3], ":")
	perms := fields[1]
	if !ok || !ok2 || len(perms) != 4 {
		return bad()
	}
	m := Mapping{
		Read: perms[0] == 'r', Write: perms[1] == 'w', Exec: perms[2] == 'x', Shared: perms[3] == 's' || perms[3] == 'S', Path: path,
	}
	var maj, min uint64
	for _, n := range []struct {
		text string
		base int
		bits int
		into *uint64
	}{
		{start, 16, 64, &m.Start},
		{end, 16, 64, &m.End},
		{fields[2], 16, 64, &m.Offset},
		{major, 16, 32, &maj},
		{minor, 16, 32, &min},
		{fields[4], 10, 64, &m.Inode},
	} {
		v, err := strconv.ParseUint(n.text, n.base, n.bits)
		if err != nil {
			return bad()
		}
		*n.into = v
	}
	m.DevMajor, m.DevMinor = uint32(maj), uint32(min)
	if m.End < m.Start {
		return bad()
	}
	return m, nil
}

// cutFields takes n fields from the front of line, and the rest without the spaces before it.
func cutFields(line string, n int) (fields []string, rest string) {
	rest = line
	for range n {
		rest = strings.TrimLeft(rest, " ")
		field, after, _ := strings.Cut(rest, " ")
		if field == "" {
			return fields, ""
		}
		fields, rest = append(fields, field), after
	}
	return fields, strings.TrimLeft(rest, " ")
}

// newScanner reads lines of up to a megabyte: a path has at most 4096 bytes, a mount's options a page.
func newScanner(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 16<<10), 1<<20)
	return s
}

// file is the path of a process' file.
func file(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

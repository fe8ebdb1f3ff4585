package proc

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Mount is a line of /proc/PID/mountinfo.
type Mount struct {
	ID, Parent int
	DevMajor   uint32
	DevMinor   uint32
	Root       string // which part of the file system is mounted
	Point      string // where
	Options    []string
	Type       string // such as tmpfs, hugetlbfs or fuse.qlive
	Source     string
	Super      []string // options of the file system, such as pagesize=2M
}

// Option finds an option of the mount or of its file system, and what stands after its "=".
func (m Mount) Option(name string) (string, bool) {
	for _, list := range [][]string{m.Options, m.Super} {
		for _, o := range list {
			if key, value, _ := strings.Cut(o, "="); key == name {
				return value, true
			}
		}
	}
	return "", false
}

// ReadMounts reads the mounts that this process sees, in the order they were made.
func ReadMounts() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot read the mounts: %w", err)
	}
	defer f.Close()
	return ParseMounts(f)
}

// ParseMounts reads the text of a mountinfo file.
func ParseMounts(r io.Reader) ([]Mount, error) {
	var mounts []Mount
	s := newScanner(r)
	for s.Scan() {
		m, err := parseMount(s.Text())
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, m)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("cannot read the mounts: %w", err)
	}
	return mounts, nil
}

func parseMount(line string) (Mount, error) {
	bad := func() (Mount, error) { return Mount{}, fmt.Errorf("cannot understand the mount %q", line) }
	// ID parent major:minor root point options [tags…] - type source super
	front, back, ok := strings.Cut(line, " - ")
	fields, rest := strings.Fields(front), strings.Split(back, " ")
	if !ok || len(fields) < 6 || len(rest) < 3 {
		return bad()
	}
	major, minor, ok := strings.Cut(fields[2], ":")
	if !ok {
		return bad()
	}
	m := Mount{
		Root: unescape(fields[3]), Point: unescape(fields[4]), Options: strings.Split(fields[5], ","),
		Type: unescape(rest[0]), Source: unescape(rest[1]), Super: strings.Split(rest[2], ","),
	}
	var err error
	var maj, min uint64
	for _, n := range []func() error{
		func() error { m.ID, err = strconv.Atoi(fields[0]); return err },
		func() error { m.Parent, err = strconv.Atoi(fields[1]); return err },
		func() error { maj, err = strconv.ParseUint(major, 10, 32); return err },
		func() error { min, err = strconv.ParseUint(minor, 10, 32); return err },
	} {
		if n() != nil {
			return bad()
		}
	}
	m.DevMajor, m.DevMinor = uint32(maj), uint32(min)
	return m, nil
}

// unescape undoes the kernel's octal escapes (\040 for a space).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

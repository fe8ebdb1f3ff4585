package definition

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"qlive/vmstate"
)

// header is what every level has.
type header struct {
	Format string `json:"format"`
	Level  int    `json:"level"`
}

// Parse reads a definition: the text of the file at path, which must be called as the VM. Level is that of the file, before it was
// brought up to date. Errors are of kind Unsupported if a newer qlive wrote it, else Invalid; they name the path, and the line where
// there is one to blame.
func Parse(path string, text []byte) (d Definition, level int, err error) {
	var h header
	if err := json.Unmarshal(text, &h); err != nil {
		return d, 0, unreadable(path, text, err)
	}
	switch {
	case h.Format != formatName:
		return d, 0, refuse(path, lineOf(text, `"format"`), fmt.Errorf("it does not say that it is a %s", formatName))
	case h.Level < 1:
		return d, 0, refuse(path, lineOf(text, `"level"`), fmt.Errorf("there is no format level %d", h.Level))
	case h.Level > formatLevel:
		return d, h.Level, vmstate.Errorf(vmstate.Unsupported, "cannot read the definition %s: it has format level %d, and this qlive reads up to %d", path, h.Level, formatLevel).
			With("start the version of qlive that wrote it, or a newer one; to go on with this one move the file away and define the VM again with `qlive run`")
	}
	current, err := upgrade(text, h.Level, steps())
	if err != nil {
		return d, h.Level, refuse(path, 0, err)
	}
	var f file
	dec := json.NewDecoder(bytes.NewReader(current))
	dec.DisallowUnknownFields() // a mistyped member must not be taken for its absence
	if err := dec.Decode(&f); err != nil {
		if h.Level < formatLevel {
			return d, h.Level, refuse(path, 0, err)
		}
		return d, h.Level, unreadable(path, text, err)
	}
	if member, err := f.check(path); err != nil {
		return d, h.Level, refuse(path, lineOf(text, `"`+member+`"`), err)
	}
	return f.definition(), h.Level, nil
}

// check tells what is wrong with a file that can be read, and in which member.
func (f file) check(path string) (member string, err error) {
	if err := vmstate.CheckName(f.Name); err != nil {
		return "name", err
	}
	if want := filepath.Base(path); f.Name+suffix != want {
		return "name", fmt.Errorf("it is that of %q, which belongs into %s", f.Name, f.Name+suffix)
	}
	for member, path := range map[string]string{"binary": f.Binary, "dir": f.Dir, "path": f.Memory.Path} {
		if path == "" && member == "path" {
			continue
		}
		if !filepath.IsAbs(path) {
			return member, fmt.Errorf("%s %q is not an absolute path", member, path)
		}
	}
	for _, text := range slices.Concat(f.Args, []string{f.Binary, f.Dir, f.Memory.Path}) {
		if strings.ContainsRune(text, 0) {
			return "args", fmt.Errorf("%q holds a zero byte", text)
		}
	}
	if !slices.Contains([]vmstate.Backing{"", vmstate.Memfd, vmstate.Hugetlb, vmstate.Hugetlbfs}, f.Memory.Backing) {
		return "backing", fmt.Errorf("there is no backing %q", f.Memory.Backing)
	}
	if err := f.Limits.Check(); err != nil {
		return "limits", err
	}
	if err := f.Restart.Check(); err != nil {
		return "restart", err
	}
	return "", nil
}

// unreadable says where a text is no definition.
func unreadable(path string, text []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	line := 0
	switch {
	case len(bytes.TrimSpace(text)) == 0:
		err = errors.New("it is empty")
	case errors.As(err, &syntax):
		line = lineAt(text, syntax.Offset)
	case errors.As(err, &kind):
		line, err = lineAt(text, kind.Offset), fmt.Errorf("%s cannot be a %s", kind.Field, kind.Value)
	case errors.Is(err, io.ErrUnexpectedEOF):
		line = lineAt(text, int64(len(text)))
	default: // json: unknown field "x"
		if _, name, ok := strings.Cut(err.Error(), "unknown field "); ok {
			line, err = lineOf(text, name), fmt.Errorf("there is no member %s", name)
		}
	}
	return refuse(path, line, err)
}

func refuse(path string, line int, why error) error {
	at := ""
	if line > 0 {
		at = fmt.Sprintf("line %d: ", line)
	}
	return vmstate.Errorf(vmstate.Invalid, "cannot read the definition %s: %s%w", path, at, why).
		With("correct the file, see docs/formats.md; or remove it with `qlive rm " + strings.TrimSuffix(filepath.Base(path), suffix) + "` and define the VM again")
}

// lineAt is the number of the line with the byte before offset, from 1.
func lineAt(text []byte, offset int64) int {
	before := text[:min(max(offset-1, 0), int64(len(text)))]
	return bytes.Count(before, []byte("\n")) + 1
}

// lineOf is the number of the first line with word in it, 0 if there is none.
func lineOf(text []byte, word string) int {
	at := bytes.Index(text, []byte(word))
	if at < 0 {
		return 0
	}
	return bytes.Count(text[:at], []byte("\n")) + 1
}

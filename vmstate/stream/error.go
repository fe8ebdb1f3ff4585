package stream

import (
	"errors"
	"fmt"
)

// ErrAmbiguous is wrapped by the error of a stream that can be read in two ways, both consistent to
// its end. The lengths of device sections are not in the stream, so a guest that knows QEMU well may
// lay bytes that look like a section into a register file of a device. The reader then refuses to
// guess; QEMU itself, which knows each device's layout, is not confused.
var ErrAmbiguous = errors.New("can be read in two ways")

// FormatError says where a stream stopped making sense.
type FormatError struct {
	Offset  int    // of the first byte that does not fit, counted from the start of the stream
	Section string // the section it lies in: its kind and, where it has one, its name
	Reason  string
	Err     error // ErrAmbiguous, or nil
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("cannot read migration stream at offset %d (0x%x), %s: %s", e.Offset, e.Offset, e.Section, e.Reason)
}

func (e *FormatError) Unwrap() error { return e.Err }

func formatError(offset int, section, format string, args ...any) *FormatError {
	return &FormatError{Offset: offset, Section: section, Reason: fmt.Sprintf(format, args...)}
}

package fsview

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	"qlive/vmstate"
)

// Verb is the first word of a command.
type Verb string

// The verbs.
const (
	Migrate   Verb = "migrate"   // hand the guest over, to Command.Binary or to the VM's own binary as it is on disk now
	Rollback  Verb = "rollback"  // hand the guest back to the binary that it came from
	Cancel    Verb = "cancel"    // undo the running migration
	Continue  Verb = "continue"  // let a migration that holds in prepared go on
	Start     Verb = "start"     // start a VM that has stopped
	Pause     Verb = "pause"     // stop the guest
	Resume    Verb = "resume"    // let it go on
	Reset     Verb = "reset"     // press its reset button
	Powerdown Verb = "powerdown" // press its power button
)

// Verbs are all verbs, in the order of the documentation.
func Verbs() []Verb {
	return []Verb{Migrate, Rollback, Cancel, Continue, Start, Pause, Resume, Reset, Powerdown}
}

// Role is the least that may give the verb; false for one that nobody may give.
func (v Verb) Role() (needs vmstate.Role, known bool) {
	switch v {
	case Migrate, Rollback, Cancel, Continue, Start, Pause, Resume, Reset, Powerdown:
		return vmstate.RoleOperate, true
	}
	return vmstate.RoleAdmin, false
}

// Command is what one write to ctl asks for.
type Command struct {
	Verb   Verb
	Binary string // of Migrate: an absolute path, or empty
}

// String is the line that [ParseCommand] reads as c.
func (c Command) String() string {
	if c.Binary == "" {
		return string(c.Verb)
	}
	return string(c.Verb) + " " + c.Binary
}

// MaxCommand is the size in bytes of the longest write to ctl that is read, newline included.
const MaxCommand = 4096

const grammar = "write one line: migrate [/PATH/OF/QEMU] | rollback | cancel | continue | start | pause | resume | reset | powerdown"

// ParseCommand reads one write to ctl:
//
//	command = verb [ blanks path ] [ newline ]
//
// A path may only follow migrate; it starts with a slash and reaches to the end of the line, so it needs no
// quotes, may contain blanks, and loses those at its ends. What does not fit is a *vmstate.Error of kind
// Invalid that says why.
func ParseCommand(written []byte) (Command, error) {
	if len(written) > MaxCommand {
		return Command{}, refuse("cannot obey %d bytes: a command has at most %d", len(written), MaxCommand)
	}
	if !utf8.Valid(written) {
		return Command{}, refuse("cannot obey a command that is not UTF-8")
	}
	line := string(bytes.TrimSuffix(written, []byte("\n")))
	if strings.Contains(line, "\n") {
		return Command{}, refuse("cannot obey several lines in one write: none of them was obeyed")
	}
	line = strings.Trim(line, " \t")
	if line == "" {
		return Command{}, refuse("cannot obey an empty command")
	}
	if strings.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }) {
		return Command{}, refuse("cannot obey %.80q: it contains control characters", line)
	}
	word, rest := line, ""
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		word, rest = line[:i], strings.TrimLeft(line[i:], " \t")
	}
	for _, verb := range Verbs() {
		if word == string(verb) {
			return withArgument(verb, rest)
		}
	}
	return Command{}, refuse("cannot obey %.80q: no such command", word)
}

func withArgument(verb Verb, rest string) (Command, error) {
	switch {
	case rest == "":
		return Command{Verb: verb}, nil
	case verb != Migrate:
		return Command{}, refuse("cannot obey %.80q: %s takes no argument", string(verb)+" "+rest, verb)
	case !strings.HasPrefix(rest, "/"):
		return Command{}, refuse("cannot migrate to %.80q: not an absolute path", rest)
	case strings.Contains(rest, "\t"):
		return Command{}, refuse("cannot migrate to %.80q: it contains control characters", rest)
	}
	return Command{Verb: Migrate, Binary: rest}, nil
}

func refuse(format string, args ...any) error {
	return vmstate.Errorf(vmstate.Invalid, format, args...).With(grammar)
}

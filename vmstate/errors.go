package vmstate

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Kind says what sort of failure an error is, for everyone who must act differently on it: each
// Kind has one HTTP status, one errno for a write to a control file, one exit code of the command line
// and one problem type.
type Kind string

// The kinds of failure.
const (
	Invalid      Kind = "invalid"      // the request makes no sense as it is
	NotFound     Kind = "not-found"    // no VM, migration or file of that name
	Conflict     Kind = "conflict"     // not in this state, or the name is taken
	Busy         Kind = "busy"         // a handoff of this VM is under way
	Denied       Kind = "denied"       // not allowed to this caller, or this binary is not admitted
	Unsupported  Kind = "unsupported"  // understood, but this guest, QEMU or host cannot do it
	Incompatible Kind = "incompatible" // the target QEMU cannot take this guest over
	Exhausted    Kind = "exhausted"    // the host lacks memory, huge pages, descriptors or room
	Timeout      Kind = "timeout"      // did not happen in the time allowed
	Cancelled    Kind = "cancelled"    // somebody asked for it to end
	QEMU         Kind = "qemu"         // QEMU refused, failed or died
	Host         Kind = "host"         // the kernel or the file system refused
	Lost         Kind = "lost"         // nobody runs the guest, or nobody can say who does
	Unavailable  Kind = "unavailable"  // the daemon is starting, stopping or degraded
	Internal     Kind = "internal"     // a mistake in qlive
)

// Exit codes of the command line that belong to no Kind.
const (
	ExitOK          = 0
	ExitOther       = 1
	ExitUsage       = 2
	ExitUnreachable = 5 // the daemon does not answer
	ExitRolledBack  = 7 // the VM runs on, in the old QEMU
	ExitDoctor      = 10
	ExitInterrupted = 130
)

// KindInfo is a row of the table of kinds.
type KindInfo struct {
	Kind   Kind
	Title  string        // of the problem document; the same for every problem of the kind
	Status int           // HTTP
	Errno  syscall.Errno // of a refused write to a control file
	Exit   int           // of the command line
}

// Kinds is the table: one row a kind, in the order of the documentation.
func Kinds() []KindInfo {
	return []KindInfo{
		{Invalid, "The request is not valid", 422, syscall.EINVAL, ExitUsage},
		{NotFound, "Not found", 404, syscall.ENOENT, 3},
		{Conflict, "Not possible in this state", 409, syscall.EBUSY, 6},
		{Busy, "A handoff is in progress", 409, syscall.EBUSY, 6},
		{Denied, "Not allowed", 403, syscall.EPERM, 4},
		{Unsupported, "Not supported", 422, syscall.EOPNOTSUPP, ExitOther},
		{Incompatible, "The target QEMU cannot take the guest", 409, syscall.EINVAL, ExitRolledBack},
		{Exhausted, "The host has not enough of something", 507, syscall.ENOSPC, ExitOther},
		{Timeout, "Out of time", 504, syscall.ETIMEDOUT, 9},
		{Cancelled, "Cancelled", 409, syscall.ECANCELED, ExitRolledBack},
		{QEMU, "QEMU failed", 502, syscall.EIO, ExitOther},
		{Host, "The host refused", 500, syscall.EIO, ExitOther},
		{Lost, "The guest is lost", 500, syscall.EIO, 8},
		{Unavailable, "The daemon is not ready", 503, syscall.ESHUTDOWN, ExitUnreachable},
		{Internal, "Internal error", 500, syscall.EIO, ExitOther},
	}
}

// Info is the row of k; an unknown kind is Internal.
func (k Kind) Info() KindInfo {
	var internal KindInfo
	for _, row := range Kinds() {
		if row.Kind == k {
			return row
		}
		if row.Kind == Internal {
			internal = row
		}
	}
	return internal
}

// ProblemType is the URN that names k in problem documents.
func (k Kind) ProblemType() string { return "urn:qlive:problem:" + string(k) }

// Error is a failure that a person will read. Detail is a sentence that starts with "cannot", names the
// thing, and says why; Remedy says what to do about it.
type Error struct {
	Kind      Kind
	Step      string   // of a handoff: what was being done, such as "verify mapping"
	VM        string   // the VM it concerns, if one
	Migration string   // the migration it concerns, if one
	Detail    string   // what failed and why
	Remedy    string   // what to do
	Words     []string // QEMU's own: QMP error descriptions, lines of its stderr
	Err       error    // the cause, for errors.Is and errors.As
}

// Errorf makes an error of kind k. The format may use %w once.
func Errorf(k Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: k, Detail: err.Error(), Err: errors.Unwrap(err)}
}

// With gives the error a remedy and returns it.
func (e *Error) With(remedy string) *Error { e.Remedy = remedy; return e }

// Error is the detail, and QEMU's last word where there is one.
func (e *Error) Error() string {
	s := e.Detail
	if n := len(e.Words); n > 0 && !strings.Contains(s, e.Words[n-1]) {
		s += ": " + e.Words[n-1]
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of the first *Error in err's chain, Internal if there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Problem is an error as everyone outside sees it (RFC 9457): the same members in REST, in the tree's
// error file and in the journal.
type Problem struct {
	Type      string   `json:"type"`
	Title     string   `json:"title"`
	Status    int      `json:"status"`
	Detail    string   `json:"detail"`
	Instance  string   `json:"instance,omitempty"`
	Step      string   `json:"step,omitempty"`
	VM        string   `json:"vm,omitempty"`
	Migration string   `json:"migration,omitempty"`
	QEMU      []string `json:"qemu,omitempty"`
	Remedy    string   `json:"remedy,omitempty"`
}

// ProblemOf describes err. Any error that is not an *Error is Internal.
func ProblemOf(err error) *Problem {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Kind: Internal, Detail: err.Error()}
	}
	info := e.Kind.Info()
	p := &Problem{
		Type: info.Kind.ProblemType(), Title: info.Title, Status: info.Status, Detail: e.Detail,
		Step: e.Step, VM: e.VM, Migration: e.Migration, QEMU: e.Words, Remedy: e.Remedy,
	}
	switch {
	case e.Migration != "":
		p.Instance = "/migrations/" + e.Migration
	case e.VM != "":
		p.Instance = "/vms/" + e.VM
	}
	return p
}

// Kind is the kind that the problem's type names.
func (p *Problem) Kind() Kind {
	return Kind(strings.TrimPrefix(p.Type, "urn:qlive:problem:"))
}

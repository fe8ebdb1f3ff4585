package cmdline

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"qlive/vmstate"
)

// Version is a QEMU's version as QMP tells it.
type Version struct {
	Major int `json:"major"`
	Minor int `json:"minor"`
	Micro int `json:"micro"`
}

// String writes v as 10.0.2.
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// AtLeast tells whether v is major.minor or later. A zero Version is later than everything: it means that
// nobody has asked the binary.
func (v Version) AtLeast(major, minor int) bool {
	return v == Version{} || v.Major > major || v.Major == major && v.Minor >= minor
}

// Machine is a machine type as query-machines tells it.
type Machine struct {
	Name       string `json:"name"`
	Alias      string `json:"alias,omitempty"`
	Default    bool   `json:"default,omitempty"`
	Deprecated bool   `json:"deprecated,omitempty"`
	RAMID      string `json:"ram_id,omitempty"` // default-ram-id: the name of the block that -m makes
}

// PathInfo is what a path of the line is on the host.
type PathInfo struct {
	Exists    bool   `json:"exists,omitempty"`
	Dir       bool   `json:"dir,omitempty"`
	Regular   bool   `json:"regular,omitempty"`
	PageBytes uint64 `json:"page_bytes,omitempty"` // size of the huge pages if it lies on hugetlbfs, else 0
	Memory    bool   `json:"memory,omitempty"`     // lies on tmpfs or hugetlbfs
	Linux     bool   `json:"linux,omitempty"`      // is a Linux kernel as its boot protocol has it, not an ELF file
}

// Facts are fixed at a guest's first start and kept for its life: every generation is built from the same
// ones, whatever the host or another binary would say later.
type Facts struct {
	Machine Machine             `json:"machine"`
	GUID    string              `json:"guid,omitempty"`  // for -device vmgenid,guid=auto
	Paths   map[string]PathInfo `json:"paths,omitempty"` // of what Paths names
	// Configs are the contents of the files that Configs names.
	Configs map[string]string `json:"configs,omitempty"`
	// Listeners are the paths of unix sockets that the line names by the descriptors of whoever started the first QEMU, by their numbers.
	Listeners map[string]string `json:"listeners,omitempty"`
	// PageBytes is the size of the huge pages that the VM's RAM is made of where the line does not say; 0 for ordinary ones.
	PageBytes uint64 `json:"page_bytes,omitempty"`
}

// Placement is where and how one generation of the guest runs.
type Placement struct {
	// Dir is the generation's folder, an absolute path: consoles lie in it. What QEMU itself makes (sockets, logs, the pidfile) lies in its
	// folder "own", which is the only one that QEMU needs to write in.
	Dir string
	// ProcessName is what the process shall be called (-name process=); as the kernel calls it if empty.
	ProcessName string
	// Incoming: the QEMU waits for the guest to be handed over to it (-incoming defer).
	Incoming bool
	// Given: and before it makes its machine it waits, at Line.Offer, for the descriptors of all its memory (cpr-transfer, since 10.0).
	Given bool
	// Vhost: it is also given a descriptor of /dev/vhost-net for each queue of a tap with vhost, since its user may not open that.
	Vhost bool
	// Promised: whoever fills the RAM has its huge pages promised, as far as it has come; the QEMU promises itself none (since 6.1).
	Promised bool
	// Version of the QEMU that runs the line; zero if it is not known.
	Version Version
	// FirstFD is the number of the first region's descriptor in the QEMU; those of the others follow, then those of Holdings, in their order. 0 stands
	// for 3, where [os/exec.Cmd]'s ExtraFiles begin.
	FirstFD int
}

// Line is a command line that qlive can run.
type Line struct {
	// Args is the line after the binary's name: also what was dropped, in its place.
	Args []vmstate.Arg `json:"args"`
	// Regions are the pieces of RAM that must be there before the QEMU starts, in the order of their descriptors.
	Regions []Region `json:"regions"`
	// Names are the paths that the user named and that lie in the generation's folder instead.
	Names []Name `json:"names,omitempty"`
	// Consoles are the character devices that stand for the user's terminal; the first is the VM's console.
	Consoles []Console `json:"consoles,omitempty"`
	// Monitor is the path of qlive's own QMP socket.
	Monitor string `json:"monitor"`
	// Offer is the path of the socket at which the QEMU waits for the descriptors of its memory; empty if it does not.
	Offer string `json:"offer,omitempty"`
	// Later is what the QEMU opens once the one before it has ended.
	Later []Later `json:"later,omitempty"`
	// Paused: the user wants the guest to be left as it is after the start (-S).
	Paused bool `json:"paused,omitempty"`
	// Warnings are sentences about what was kept but may not be what the user expects.
	Warnings []string `json:"warnings,omitempty"`
}

// Argv is what QEMU gets after its own name.
func (l *Line) Argv() []string {
	argv := make([]string, 0, len(l.Args))
	for _, a := range l.Args {
		if !a.Dropped {
			argv = append(argv, a.Value)
		}
	}
	return argv
}

// Region is a piece of guest RAM that qlive shall make.
type Region struct {
	ID        string `json:"id"`    // of the memory backend
	Block     string `json:"block"` // QEMU's name of it in the migration stream and in x-query-ramblock
	SizeBytes uint64 `json:"size_bytes"`
	FD        int    `json:"fd"` // its descriptor's number in the QEMU
	// PageBytes is the size of the huge pages that the line asks for, 0 where it does not say.
	PageBytes uint64 `json:"page_bytes,omitempty"`
	// Huge: the line asks for huge pages; with PageBytes 0 of the host's default size.
	Huge bool `json:"huge,omitempty"`
	// Prealloc: the line asks that all of it be allocated before the guest runs.
	Prealloc bool `json:"prealloc,omitempty"`
}

// Name is a path that the user named for something that a QEMU creates.
type Name struct {
	Kind   NameKind `json:"kind"`
	Public string   `json:"public"` // as the user wrote it; relative to the VM's working directory if relative
	Path   string   `json:"path"`   // in the generation's folder
}

// NameKind says what a Name leads to.
type NameKind string

// The kinds of names.
const (
	NameSocket  NameKind = "socket"
	NamePidfile NameKind = "pidfile"
	NameLog     NameKind = "log"
)

// Console is a character device of the guest that qlive serves in place of the user's terminal.
type Console struct {
	ID    string `json:"id"`    // of the character device
	Input string `json:"input"` // a FIFO that QEMU reads what is typed from; it must be there before QEMU starts
	Log   string `json:"log"`   // everything that the guest has written, kept by QEMU itself
}

// quote is s as it stands inside a message.
func quote(s string) string { return strconv.Quote(s) }

// words is the option as the user wrote it.
func (o option) words() string {
	if !o.hasVal {
		return o.token
	}
	if o.value == "" || strings.ContainsFunc(o.value, func(c rune) bool { return unicode.IsSpace(c) || !unicode.IsPrint(c) }) {
		return o.token + " " + quote(o.value)
	}
	return o.token + " " + o.value
}

// invalid is the error for an option that makes no sense.
func invalid(o option, why, remedy string) error {
	return vmstate.Errorf(vmstate.Invalid, "cannot use %s: %s", o.words(), why).With(remedy)
}

// refuse is the error for an option that qlive understands and cannot carry over.
func refuse(o option, why, remedy string) error {
	return vmstate.Errorf(vmstate.Unsupported, "cannot use %s: %s", o.words(), why).With(remedy)
}

package stream

import "fmt"

// What every stream starts with, and the only size of a guest page that is read or written here.
const (
	Magic     = 0x5145564d // "QEVM"
	Version   = 3
	PageBytes = 4096
)

// headerBytes is the length of magic and version.
const headerBytes = 8

// footerBytes is the length of a section's footer: its mark and the section's id.
const footerBytes = 5

// ramSectionVersion is the only version of the "ram" section that QEMU has loaded since 2012.
const ramSectionVersion = 4

// Kind is the byte that a section starts with.
type Kind uint8

// The kinds of section.
const (
	KindEOF           Kind = 0x00
	KindStart         Kind = 0x01
	KindPart          Kind = 0x02
	KindEnd           Kind = 0x03
	KindFull          Kind = 0x04
	KindSubsection    Kind = 0x05 // only inside a payload
	KindDescription   Kind = 0x06 // only after the EOF
	KindConfiguration Kind = 0x07 // only after the header
	KindCommand       Kind = 0x08
	KindFooter        Kind = 0x7e
)

func (k Kind) String() string {
	switch k {
	case KindEOF:
		return "EOF"
	case KindStart:
		return "START"
	case KindPart:
		return "PART"
	case KindEnd:
		return "END"
	case KindFull:
		return "FULL"
	case KindSubsection:
		return "SUBSECTION"
	case KindDescription:
		return "VMDESCRIPTION"
	case KindConfiguration:
		return "CONFIGURATION"
	case KindCommand:
		return "COMMAND"
	case KindFooter:
		return "FOOTER"
	}
	return fmt.Sprintf("kind 0x%02x", uint8(k))
}

// Command is what a COMMAND section tells the loading QEMU.
type Command uint16

// The commands. Postcopy and COLO ones are read, never written.
const (
	CommandOpenReturnPath  Command = 1
	CommandPing            Command = 2
	CommandPostcopyAdvise  Command = 3
	CommandPostcopyListen  Command = 4
	CommandPostcopyRun     Command = 5
	CommandRAMDiscard      Command = 6
	CommandPackaged        Command = 7
	CommandEnableCOLO      Command = 8
	CommandPostcopyResume  Command = 9
	CommandRecvBitmap      Command = 10
	CommandSwitchoverStart Command = 11
)

// anyLength marks a command or message whose length its content decides.
const anyLength = -1

// length is how long the command's data must be; ok is false for a command that is not known.
func (c Command) length() (n int, ok bool) {
	switch c {
	case CommandOpenReturnPath, CommandPostcopyListen, CommandPostcopyRun, CommandEnableCOLO,
		CommandPostcopyResume, CommandSwitchoverStart:
		return 0, true
	case CommandPing, CommandPackaged:
		return 4, true
	case CommandPostcopyAdvise, CommandRAMDiscard, CommandRecvBitmap:
		return anyLength, true
	}
	return 0, false
}

func (c Command) String() string {
	switch c {
	case CommandOpenReturnPath:
		return "OPEN_RETURN_PATH"
	case CommandPing:
		return "PING"
	case CommandPostcopyAdvise:
		return "POSTCOPY_ADVISE"
	case CommandPostcopyListen:
		return "POSTCOPY_LISTEN"
	case CommandPostcopyRun:
		return "POSTCOPY_RUN"
	case CommandRAMDiscard:
		return "POSTCOPY_RAM_DISCARD"
	case CommandPackaged:
		return "PACKAGED"
	case CommandEnableCOLO:
		return "ENABLE_COLO"
	case CommandPostcopyResume:
		return "POSTCOPY_RESUME"
	case CommandRecvBitmap:
		return "RECV_BITMAP"
	case CommandSwitchoverStart:
		return "SWITCHOVER_START"
	}
	return fmt.Sprintf("command %d", uint16(c))
}

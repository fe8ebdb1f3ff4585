// Package stream reads and writes QEMU's migration stream, version 3.
//
// Its purpose is to hand over device state only. While the guest still runs, a [Composer] sends to the
// waiting QEMU all that is not device state: the table of RAM blocks and the pages of those that the two
// do not share (firmware, option ROMs, video memory, ACPI tables, flash). Once the guest has stopped, it adds what has
// changed and the devices' sections as xen-save-devices-state wrote them, in one write. [ReturnPath] reads
// what the target answers. [Parse] takes whole streams apart: those of Composer, of `migrate`
// and of xen-save-devices-state.
//
//	c, err := stream.NewComposer(channel, stream.Config{Machine: "pc-q35-7.2", IgnoreShared: true})
//	err = c.Begin(blocks)                     // all of them, shared ones too
//	err = c.Pages("pc.bios", 0, firmware)     // each block that is not shared, whole
//	err = c.Ping(1)                           // PONG 1: the target has loaded all of it
//	// stop the guest, xen-save-devices-state
//	err = c.Pages("0000:00:01.0/vga.vram", offset, changed)
//	err = c.Finish(state, stream.Finish{})    // SHUT 0: the stream has been read to its end
//
// The package imports nothing of qlive, and starts no goroutine. The reader never panics, whatever
// it is given, and its work and memory are bounded by a small multiple of the input's length.
//
// # Format
//
// All numbers are big-endian. A "string" is a byte of length and that many bytes. Names in brackets are
// where QEMU does it (10.0.13; 7.2.22 is the same unless said otherwise).
//
//	be32 0x5145564d "QEVM", be32 3                                [qemu_savevm_state_header]
//	0x07 CONFIGURATION                                            once, here; see below
//	then any of
//	  0x01 START  be32 id, string name, be32 instance, be32 version, payload, footer
//	  0x02 PART   be32 id, payload, footer
//	  0x03 END    be32 id, payload, footer
//	  0x04 FULL   as START, payload is the whole state of one device
//	  0x08 COMMAND  be16 command, be16 length, data; no footer
//	footer: 0x7e, be32 id of the section                          [check_section_footer]
//	0x00 EOF
//	0x06 VMDESCRIPTION  be32 length, JSON                         see below
//
// Who knows the length of a payload: for "ram" it is told by its words (below), for anything else only by
// the code of the device, and a little by the description. The reader looks for the footer, see [parser].
//
// An id is whatever the source chose; it counts up from 0 in order of registration, so ids do not rise
// along the stream (globalstate, registered late, is followed only by devices plugged later). The target finds the device by name and instance and notes the id
// [qemu_loadvm_section_start_full]; PART and END then look for the first device, in the target's own
// order, whose noted id is equal [qemu_loadvm_section_part_end]. A device that has loaded nothing yet
// has noted 0. So an id that is not 0 and not of a device serves for "ram": [RAMSectionID].
//
// Footers are there unless send-section-footer is off (machine types before 2.4). Streams without are refused.
//
// # Configuration
//
//	0x07, be32 length, name of the machine's class                [vmstate_configuration]
//	subsections, each: 0x05, string name, be32 version (1), fields
//	  configuration/target-page-bits  be32                        only if above the least possible: never on x86
//	  configuration/capabilities      be32 count, {string}        only if count > 0
//	  configuration/uuid              16 bytes                     only with capability validate-uuid
//
// The target compares the machine's name with its own as far as the sent one goes (strncmp: a prefix
// would pass), so an alias such as "q35" must have been resolved. The capabilities are not all that are
// on but those that a target validates: x-ignore-shared, and since 9.0 mapped-ram; one that is on only on one side
// fails the load ("Capability x-ignore-shared is off, but received capability is on").
//
// `-global migration.send-configuration=off` (and machine types before 2.4) makes a source leave the
// section out and a target not expect it; in any other target its absence is "Configuration section missing".
// xen-save-devices-state never writes it [qemu_save_device_state].
//
// # RAM
//
// The section "ram", instance 0, version 4, is a row of words be64: an offset, a multiple of the page
// size, and flags in the bits below it [ram_load_precopy]. START, PART and END are read by the same loop, so
// tables and pages may come in any of them, any number of times; each payload ends with EOS.
//
//	0x02 ZERO      [string block], byte 0
//	0x04 MEM_SIZE  the offset is a sum of bytes; entries follow until it is used up:
//	               string block, be64 used length, [be64 address if x-ignore-shared]
//	0x08 PAGE      [string block], 4096 bytes
//	0x10 EOS
//	0x20 CONTINUE  added to ZERO and PAGE: the block of the page before, whose name is then not sent
//	0x40 XBZRLE    [string block], byte 1, be16 length, difference          read, never written
//	0x100 COMPRESS [string block], be32 length, deflated page               until 9.0; read, never written
//	0x200 MULTIFD_FLUSH                                                      since 8.1; read, never written
//
// The table lists every block, shared or not. In the target a name that is not known fails; a size that
// differs resizes the block, which fails unless it is one of the few that can be (ACPI tables); the address is
// compared only for blocks that the target itself ignores. It is the offset of the block's memory region in the
// region that contains it: of a memory backend the property "addr" of /objects/ID/ID[0], equal in a real stream of
// 7.2, 10.0 and 11.1. A page of a block that the target ignores fails ("block pc.ram should not be
// migrated !"). Nothing remains of a block that is neither shared nor sent: a target does not load its own firmware files into
// guest memory while it is waiting.
//
// A table of some blocks only is accepted; that is how [Composer.Resize] works.
//
// With multifd, postcopy (page sizes in the table) or mapped-ram the format differs: refused where it shows.
//
// # Commands
//
//	1 OPEN_RETURN_PATH  none   the channel must be a socket
//	2 PING              be32   answered with PONG of the same number, once all before it has been loaded;
//	                           without an open return path it fails the load
//	3..6, 9, 10         postcopy
//	7 PACKAGED          be32 length, then a stream without header      postcopy; refused
//	8 ENABLE_COLO
//	11 SWITCHOVER_START none   since 10.0, sent for machine types of 10.0 and later. It only calls a hook that
//	                           VFIO has; a target of such a machine type loads without it
//
// # Device state
//
// xen-save-devices-state writes header, FULL sections, EOF [qemu_save_device_state]. It has every device
// that `migrate` sends as FULL, in the same order, with the same ids and names. It leaves out whoever
// sends in parts [is_ram]: RAM, dirty bitmaps, and VFIO devices, which therefore cannot be handed over this way.
//
// "globalstate" always says "running" there, whatever the guest's state was; it is a field of be32 (length with the NUL)
// and 100 bytes, of which since 8.2 the name has 32. The target takes the name as a run state: "running" or "paused" make it
// paused if it was started with -S, "prelaunch" prelaunch, with or without -S. An unknown one fails the load,
// a known one that cannot follow "inmigrate" aborts: see [RunStates].
//
// # Description
//
// A target reads it unless suppress-vmdesc=on; what it says is not looked at. If there is another byte the target
// warns ("Expected vmdescription section, but got 0") and goes on; if there is none it waits. So the
// Composer writes "{}".
//
// The JSON of a real source lists the devices in order, by name and instance; the reader holds the
// sections against it.
//
// # Return path
//
//	be16 type, be16 length, payload                               [migrate_send_rp_message]
//	1 SHUT be32   2 PONG be32   7 SWITCHOVER_ACK none              the others belong to postcopy
//
// SHUT comes last of all [migration_incoming_state_destroy]: with value 0 after the target's run state has been set and its
// migration is "completed"; with 1 after an error in a section. QEMU before 9.1 exits on an error without a SHUT, later ones
// too unless migrate-incoming had exit-on-error=false; and an error in the configuration comes before the return path is open. So the end of
// the return path without SHUT 0 is a failure, whose reason stands on the target's stderr.
//
// # While the target waits
//
// Between Ping and Finish the target sits between two sections, in state "inmigrate", and its monitor
// answers: the loading is a coroutine that waits for the channel. In the middle of a RAM section it would hold an
// RCU read lock as well, and free nothing; Ping ends the section.
package stream

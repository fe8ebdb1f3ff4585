// Package stream reads and writes QEMU's migration stream, version 3.
//
// Its purpose is to hand over device state only. While the guest still runs, a [Composer] sends to the
// waiting QEMU all that is not device state: the table of RAM blocks, and the pages of those that the two
// do not share (firmware, option ROMs, video memory, ACPI tables, flash). Once the guest has stopped, it
// adds what has changed and the devices' sections as xen-save-devices-state wrote them, in one write.
// [ReturnPath] reads what the target answers. [Parse] takes whole streams apart: those of a Composer, of
// `migrate` and of xen-save-devices-state. [Sieve] is for postcopy, and is not concerned with the others.
//
//	c, err := stream.NewComposer(channel, stream.Config{Machine: "pc-q35-7.2", IgnoreShared: true})
//	err = c.Begin(blocks)                     // all of them, shared ones too
//	err = c.Pages("pc.bios", 0, firmware)     // each block that is not shared, whole
//	err = c.Ping(1)                           // PONG 1: the target has loaded all of it
//	// stop the guest, xen-save-devices-state
//	err = c.Pages("0000:00:01.0/vga.vram", offset, changed)
//	err = c.Finish(state, stream.Finish{})    // SHUT 0: the stream has been read to its end
//
// The package imports nothing of qlive and starts no goroutine. The reader never panics, whatever it is
// given, and its work and memory are bounded by a multiple of the input's length.
//
// # Format
//
// All numbers are big-endian. A "string" is a byte of length and that many bytes. Names in brackets are
// where QEMU does it (migration/ of 10.0.13; 7.2.22 is the same unless said otherwise). What stands here
// was read there, and tried with 7.2.22, 10.0.2, 10.0.13 and 11.1.3 in integration/stream.
//
//	be32 0x5145564d "QEVM", be32 3                                [qemu_savevm_state_header]
//	0x07 CONFIGURATION                                            once, here; see below
//	then any of
//	  0x01 START  be32 id, string name, be32 instance, be32 version, payload, footer
//	  0x02 PART   be32 id, payload, footer
//	  0x03 END    be32 id, payload, footer
//	  0x04 FULL   as START; the payload is the whole state of one device
//	  0x08 COMMAND  be16 command, be16 length, data; no footer
//	footer: 0x7e, be32 id of the section                          [check_section_footer]
//	0x00 EOF
//	0x06 VMDESCRIPTION  be32 length, JSON                         see below
//
// How long a payload is: of "ram" its words tell (below), of anything else only the code of the device.
// The reader looks for the footer: see the comment on parser.
//
// An id is whatever the source chose. QEMU counts up from 0 as devices are registered and sends them by
// priority, so ids do not rise along the stream. The target finds the device by name and instance, and
// notes the id [qemu_loadvm_section_start_full]; PART and END then mean the first device, in the
// target's own order, whose noted id is equal [qemu_loadvm_section_part_end]. A device that has loaded
// nothing yet has noted 0. So any id that is neither 0 nor a device's serves for "ram": [RAMSectionID].
//
// Footers are there unless send-section-footer is off (machine types before 2.4). Streams without them
// are refused.
//
// # Configuration
//
//	0x07, be32 length, name of the machine's class                [vmstate_configuration]
//	subsections, each: 0x05, string name, be32 version (1), fields
//	  configuration/target-page-bits  be32              only if above the least possible: never on x86
//	  configuration/capabilities      be32 count, {string}                        only if count > 0
//	  configuration/uuid              16 bytes           only with capability validate-uuid
//
// The target compares the machine's name with its own as far as the sent one goes (strncmp: a prefix
// would pass), so an alias such as "q35" must have been resolved. The capabilities are not all that are
// on but those that a target validates: x-ignore-shared and, since 9.0, mapped-ram. One that is on only
// on one side fails the load.
//
// `-global migration.send-configuration=off` (and machine types before 2.4) makes a source leave the
// section out and a target not expect it; to any other target its absence is "Configuration section
// missing". xen-save-devices-state never writes it [qemu_save_device_state].
//
// # RAM
//
// The section "ram", instance 0, version 4, is a row of be64 words: an offset, a multiple of the page
// size, and flags in the bits below it [ram_load_precopy]. START, PART and END are read by one loop, so
// tables and pages may come in any of them, any number of times. Each payload ends with EOS.
//
//	0x02 ZERO      [string block], byte 0
//	0x04 MEM_SIZE  the offset is a sum of bytes; entries follow until it is used up:
//	               string block, be64 used length, [be64 address if x-ignore-shared]
//	0x08 PAGE      [string block], 4096 bytes
//	0x10 EOS
//	0x20 CONTINUE  added to ZERO and PAGE: the block of the page before, whose name is then not sent
//	0x40 XBZRLE    [string block], byte 1, be16 length, difference        read, never written
//	0x100 COMPRESS [string block], be32 length, deflated page             until 9.0; read, never written
//	0x200 MULTIFD_FLUSH                                                    since 8.1; read, never written
//
// The table of a source lists every block, shared or not. In the target
//
//   - a name that is not known fails;
//   - a size that differs resizes the block, which fails unless it is one of the few that can be (those
//     that hold ACPI tables), so a firmware of another size is found out here;
//   - the address is compared, only for blocks that the target itself ignores. It is the offset of the
//     block's memory region in the region that contains it: for a memory backend the property "addr" of
//     /objects/ID/ID[0];
//   - a page of a block that the target ignores fails;
//   - a block that is neither shared nor sent stays empty: QEMU does not put firmware into the memory of
//     a guest that is to come. The guest would run on, and not survive its next reset.
//
// A table of some blocks only is accepted as well: that is [Composer.Resize]. All of this happens as the
// words arrive, so whatever does not fit shows before the guest is stopped.
//
// With multifd, postcopy (page sizes in the table) and mapped-ram the format differs; they are refused
// where they show.
//
// # Commands
//
//	1 OPEN_RETURN_PATH  none   the channel must be a socket
//	2 PING              be32   answered with PONG of the same number, once all before it has been loaded;
//	                           without an open return path it fails the load
//	3..6, 9, 10                postcopy
//	7 PACKAGED          be32   length of a stream without header that follows: postcopy; refused
//	8 ENABLE_COLO
//	11 SWITCHOVER_START none   since 10.0, sent for machine types of 10.0 and later. It only calls a hook
//	                           that VFIO has; a target of such a machine type loads without it
//
// # Device state
//
// xen-save-devices-state writes header, FULL sections and EOF [qemu_save_device_state]: every device that
// `migrate` sends as FULL, in the same order, with the same ids and names. It leaves out whoever sends in
// parts [is_ram]: RAM, dirty bitmaps, and VFIO devices, which therefore cannot be handed over in this way.
//
// With live=true (the default) QEMU also lets go of the images of a guest that stands, until `cont`. If it
// is then asked again, or asked to migrate, without a `cont` in between, QEMU before 10.0 aborts and the
// guest is lost. With live=false it keeps the images, and may be asked any number of times.
//
// "globalstate" always says "running" there, whatever the guest's run state is. Its payload is be32, the
// length of the name with its NUL, and 100 bytes, of which the name has the first 32 since 8.2; the rest
// says whether the guest had been suspended. The target takes the name as run state: "running" and
// "paused" make it paused if it was started with -S; "prelaunch" is taken as it is. An unknown name fails the
// load, a known one that cannot follow "inmigrate" aborts: see [RunStates].
//
// # Description
//
// A target reads it unless suppress-vmdesc=on, and does not look at what it says. If another byte comes
// it warns ("Expected vmdescription section, but got 0") and goes on; if none comes it waits. So the
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
// SHUT comes last of all [migration_incoming_state_destroy]: with value 0 once the target has its run state
// and its migration is "completed", with 1 after an error in a section. A failing QEMU before 9.1 exits
// without a SHUT; a later one sends it, and then exits unless migrate-incoming had exit-on-error=false.
// An error in the configuration comes before the return path is open. So the end of the return path
// without SHUT 0 is a failure, whose reason stands on the target's stderr.
//
// # Postcopy
//
// A [Sieve] reads the stream of a postcopy on its way from one QEMU to another, and keeps pages of zeroes back [postcopy_start, ram_load_postcopy]:
//
//	header, CONFIGURATION, OPEN_RETURN_PATH, PING 1, POSTCOPY_ADVISE
//	START "ram" with the table; PART with pages, or none
//	POSTCOPY_RAM_DISCARD, any number   the target throws these pages away
//	PACKAGED                           holds POSTCOPY_LISTEN, the devices, PING 3, POSTCOPY_RUN
//	PING 4
//	PART and END "ram"                 pages, each once, in any order
//	EOF                                nothing behind it
//
// The target has emptied its memory before. It asks for what its guest touches, with REQ_PAGES_ID, or REQ_PAGES for the block of the last request; a source
// that is asked for what it has sent does nothing. A page that comes twice fails the load.
//
// # While the target waits
//
// Between Ping and Finish the target sits between two sections, in the run state "inmigrate", and its
// monitor answers: loading is a coroutine that waits for the channel. Inside a RAM section it would hold
// an RCU read lock as well, and free nothing; Ping ends the section.
//
// Loading does not touch shared memory under TCG. Under KVM the guest's clock page changes as the state
// of the vCPUs is loaded; the source writes it anew when it goes on.
package stream

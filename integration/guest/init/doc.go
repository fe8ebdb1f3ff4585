// Command init is the test guest: the only program of its machine, started by the kernel as process 1.
//
// It fills memory with the pattern of package pattern, keeps rewriting a known part of it, beats on
// the serial console every two milliseconds, verifies all of its memory periodically and when told to, and
// prints what it finds in the language of package wire. It obeys one command a line:
//
//	verify [TAG]   check all memory now; the answer is MEM … tag=TAG
//	echo TEXT      answer ECHO TEXT
//	rate N         rewrite N pages a second from now on, 0 for none
//	devices        say which driver drives each virtio device
//	reboot         restart the machine, through its firmware
//	poweroff       switch the machine off
//	panic          make the kernel panic
//
// and reads its parameters, qlive.NAME=VALUE, from the kernel's command line (type params).
//
// It loads the kernel modules that lie in /modules and takes every network interface up, so that
// the devices of the machine are driven and not merely there.
//
// What keeps the truth undisturbed: one thread alone, scheduled before all others, writes to the
// console, so that no line waits for another and none is mixed with another. Everyone else hands it
// finished lines. The memory under test is mapped apart from Go's heap, which stays a few hundred KiB,
// and the garbage collector does not run. The other threads have the lowest priority.
//
// It is compiled apart from the module it lives in, so it may import nothing but the standard
// library and the packages wire and pattern beside it.
package main

// Package proc reads what the kernel says of processes and memory: /proc/PID/maps, stat, status, cmdline and pagemap,
// /proc/meminfo and mountinfo, and the pools of huge pages in sysfs.
//
// Each file has a pure parser, which takes its text, and a reader, which opens it. What a parser does not understand is an
// error that names the line, never a zero value; lines and fields that a newer kernel adds are passed over.
//
// Reading any of these disturbs neither the process nor a guest that it runs. A process is named by its number here:
// whoever acts on what he reads must hold the process by a pidfd, and compare [Stat.Start], as package qemu does.
//
// The package must not import anything of qlive.
package proc

// Package scarcity adds the numbers to errors that say that the host has not enough of something: descriptors, processes, memory. "Too
// many open files" does not tell how many there may be, nor whose limit that is. What a file system lacks is not its business.
//
// The package must not import anything of qlive but vmstate and internal/proc.
package scarcity

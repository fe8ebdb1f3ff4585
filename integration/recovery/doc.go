// Package recovery tests what the death of the daemon does to its guests: nothing. The daemon is the program itself, in a process of
// its own that is killed, told to end, and started again on the same run directory.
package recovery

// Package rehouse measures how fast the RAM of a guest that stands is moved into another backing, beside a bare parallel memcpy between the same two.
//
// No guest is run: what is moved is random bytes, which a second mapping holds as a source QEMU would. Both contenders get files of their own that nobody has
// touched, and the memcpy frees nothing behind: it is what a move can at best be when twice the memory may be held.
package rehouse

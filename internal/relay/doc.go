// Package relay stands between the two QEMUs of a postcopy and keeps pages of zeroes from the target, which would have to make real pages of them. What it
// keeps back and why that is safe is [stream.Sieve]'s; here it gets a socket on either side.
//
// It runs as a process of its own ([Main]), because a guest depends on it while its pages come, and must not depend on the daemon. That process has nothing
// but the two sockets. It ends when both QEMUs have hung up; if one hangs up or dies, the other is told at once, as if they had held the ends of one socket
// pair. Its own death is the end of the channel.
//
// Invariants:
//
//   - What is kept back is given out when it is asked for, and the end of the stream never overtakes it.
//   - Reading what the target says never waits for what is written to it: a target that asks for a page reads nothing until it has asked.
//
// Goroutines: those of [Run], which waits for them.
//
// The package must not import anything of qlive but vmstate/stream.
package relay

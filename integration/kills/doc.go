// Package kills is the kill matrix: at each failpoint of a handoff, on both sides of every step, the daemon, the source and the target are killed or made to
// hang, and the guest itself says what has become of it.
//
// The tests visit every failpoint once, with party and signal rotating (SEED says where the rotation begins); `make kills` visits every point with every
// party and signal. docs/reliability.md has the results.
package kills

// Package kills is the kill matrix: at each failpoint of a handoff, on both sides of every step, the daemon, the source and the target are killed or made to
// hang, and the guest itself says what has become of it.
//
// The tests visit every failpoint of mode shared once, with party and signal rotating (SEED says where the rotation begins), and one of each other course that a
// handoff can take; `make kills` visits every point of every course with every party and signal. What must come of it stands in documented_test.go, as in the
// documents. docs/reliability.md has the results.
package kills

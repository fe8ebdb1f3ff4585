// Package postcopy measures mode postcopy beside a bare postcopy by hand: two clients that move guests of the same kind, one after the other, in
// alternating pairs. Both are judged by QEMU's own stamps, from the source's STOP to the end of the migration in the target.
package postcopy

// Package postcopy tries mode postcopy on real QEMUs that a stranger has started: which versions work together, what the guest notices, how
// much memory is held, and what is left when one of the parties dies in the middle.
package postcopy

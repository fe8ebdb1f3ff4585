// Package adopt tries the adoption of QEMUs that qlive did not start: they are started by the tests as a stranger would, and nothing on their
// command lines is qlive's.
package adopt

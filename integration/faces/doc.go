// Package faces holds the tests of what a person or a program meets of a whole qlive with real guests: REST over its socket, the tree, and what
// neither may cost the guests. There is nothing to import.
package faces

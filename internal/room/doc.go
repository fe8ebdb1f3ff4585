// Package room says how much room a file system has left, so that what cannot be written is refused with the numbers.
//
// "No space left on device" does not tell which file system is full, nor of what: bytes, files, or a quota. [Explain] adds
// that to an error; [Of] tells beforehand.
//
// The package must not import anything of qlive but vmstate.
package room

// Package stream holds the tests of vmstate/stream against real QEMUs: that what they write can be
// read, and that what the Composer writes is loaded by each of them, firmware and video memory
// included. There is nothing to import.
package stream

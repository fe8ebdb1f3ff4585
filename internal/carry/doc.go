// Package carry holds what one QEMU has open while another is started that is given it by descriptor.
//
// Both have the same tap, the same listening socket then, and the one that only waits for the guest already handles them:
//
//   - It sets the length of the header before each frame of a tap to what a device without a driver has, for the interface as a whole, and the
//     running guest's frames would be misread. [KeepTaps] sets it back as soon as it is seen.
//   - It accepts connections, on monitors, too, where somebody could let the guest run. [Shut] lets the kernel drop whatever asks for one, so that the
//     client's kernel asks again, until [Open].
//
// The package must not import anything of qlive but vmstate.
package carry

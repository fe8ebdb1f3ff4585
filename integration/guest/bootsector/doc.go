// Package bootsector is the smallest guest there is: a boot sector of 512 bytes that counts, in a
// register and in RAM, and says on the first serial port how far it has got. It is for KVM on hosts
// where KVM runs no Linux guest, and needs no assembler: testdata/boot.s is its source, program.go its
// machine code.
//
// A line is T and eight hexadecimal digits, Step more than those of the line before; the line after
// TFFFFFE00 is T00000000. A line that begins with X says what RAM held instead of the count.
//
// The package imports nothing of the product.
package bootsector

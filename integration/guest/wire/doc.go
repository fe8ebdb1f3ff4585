// Package wire is the language the test guest speaks on its serial console: how each line is
// written (by the guest) and read (by the host), in one place so that the two cannot drift apart.
//
// Every line is
//
//	KIND payload cccc\n
//
// where cccc is a 16 bit checksum in lower-case hexadecimal of all bytes before the space in front
// of it. Lines are short and the guest writes each with one write call, so a console that was
// joined from several processes shows lost, repeated and torn lines plainly: a line that is not
// exactly what the guest wrote does not parse.
//
//	B 1234 5678901 0d3c                        one beat: sequence number, guest CLOCK_MONOTONIC in µs
//	GUEST-UP boot=… pages=… dirty_pages=… …    a boot; the identity differs from boot to boot
//	FILL pages=… sum=… took_us=…               all memory has been written
//	MEM ok=1 tag=… bad=0 sum=… pages=… …       the result of one verification of all memory
//	BAD page=… word=… want=… got=… what=…      one page that failed it
//	ACK … | ECHO … | ERR …                     answers to commands
//	BYE how=reboot seq=…                       the last line of a boot that ends on purpose
//
// The package is compiled into the guest, so it may import nothing but the standard library.
package wire

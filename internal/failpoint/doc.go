// Package failpoint makes named places in the code fail, wait or die, so that tests can visit each of them.
//
//	func (h *Handoff) stop(ctx context.Context) error {
//		if err := h.failpoints.Hit(ctx, "flip.stop.before"); err != nil {
//			return err
//		}
//		…
//
// A nil *Set is the rule: every point is off, at the cost of one comparison. A Set is made from a specification, which a
// program takes from the environment variable QLIVE_FAILPOINTS and from nowhere else, and is passed down to whoever has
// points. Tests in the same process may arm points of a Set later, with Go functions too.
//
// The specification is a small part of the grammar of FreeBSD's fail(9):
//
//	points = point { ";" point }
//	point  = name "=" term { "->" term }
//	term   = [ count "*" ] action
//	action = "off" | "error(" text ")" | "delay(" duration ")" | "block" | "panic" | "exit(" code ")" | "stop" | "kill"
//
// Terms are used up from left to right, each as often as its count says, the last for ever if it has none; then the point
// is off. So 2*off->1*error(no space) fails the third time only. Nothing can follow a term without a count.
//
//   - error makes Hit return an *Error with the text.
//   - delay waits, in the notation of Go: 1.5s, 20ms.
//   - block waits for Release.
//   - panic panics; exit leaves the process with a code; kill kills it with SIGKILL.
//   - stop stops the whole process with SIGSTOP, until somebody sends SIGCONT.
//
// A point that waits ends with its context, and returns the context's cause.
//
// The package must not import anything of qlive.
package failpoint

// Package failures holds the tests of handoffs that fail: whatever goes wrong before the target runs, the guest goes on
// in the source as it was, the problem says what to do, nothing of the target is left, and the next handoff works. There is nothing to
// import.
package failures

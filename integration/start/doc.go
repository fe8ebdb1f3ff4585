// Package start holds the tests of what becomes of a QEMU command line: which RAM the guest gets and who holds it, what is rewritten and what
// is refused and why, what a handoff costs in memory and in time, and what is shown of its progress. There is nothing to import.
package start

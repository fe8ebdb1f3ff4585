package pageflip

import "strings"

// Route is a way to get memory from the donor to the taker.
type Route string

// The routes. A slash parts the mechanism from what is special.
const (
	Gift         Route = "vmsplice gift, splice move"
	GiftEarly    Route = "vmsplice gift, splice move / freed at once"
	GiftKept     Route = "vmsplice gift, splice move / not freed"
	GiftRead     Route = "vmsplice gift, vmsplice"
	FileSplice   Route = "memfd, splice, splice move"
	Pwrite       Route = "pwrite"
	VMRead       Route = "process_vm_readv"
	UnixSocket   Route = "unix socket"
	TCPSocket    Route = "tcp socket"
	PassFile     Route = "memfd passed"
	PassFileFill Route = "memfd passed / page tables filled"
)

// Routes are all routes, in the order of the table.
func Routes() []Route {
	var all []Route
	for _, w := range works() {
		all = append(all, w.route)
	}
	return all
}

// what tells people what a route does.
func (r Route) what() string {
	for _, w := range works() {
		if w.route == r {
			return w.what
		}
	}
	return ""
}

// work is what the two sides do for a route.
type work struct {
	route Route
	what  string
	file  bool // the donor's memory is a memfd, not private to it
	kept  bool // the donor still has all of it afterwards
	give  func(*side) error
	take  func(*side) error
}

// works are the routes and their work.
func works() []work {
	return []work{
		{Gift, "the series of 2013", false, false, giveGift(behind), takeSplice},
		{GiftEarly, "MADV_DONTNEED while the pages are still in the pipe", false, false, giveGift(early), takeSplice},
		{GiftKept, "the same without MADV_DONTNEED", false, true, giveGift(never), takeSplice},
		{GiftRead, "the taker reads the pipe by vmsplice", false, false, giveGift(behind), takeVmsplice},
		{FileSplice, "the donor's memory is a memfd, too; holes punched behind", true, false, giveFileSplice, takeSplice},
		{Pwrite, "the donor writes into the taker's memfd", false, false, givePwrite, takePwrite},
		{VMRead, "the taker reads the donor's memory", false, false, giveAddress, takeVMRead},
		{UnixSocket, "a stream", false, false, giveUnix, takeUnix},
		{TCPSocket, "through the loopback", false, false, giveTCP, takeTCP},
		{PassFile, "the donor's memory is a memfd; the taker maps it", true, true, giveFile, takeFile(false)},
		{PassFileFill, "the same, and MADV_POPULATE_WRITE", true, true, giveFile, takeFile(true)},
	}
}

func workOf(r Route) (work, bool) {
	for _, w := range works() {
		if w.route == r {
			return w, true
		}
	}
	return work{}, false
}

// cell is the route as a table shows it.
func (r Route) cell() string { return strings.ReplaceAll(string(r), " / ", "; ") }

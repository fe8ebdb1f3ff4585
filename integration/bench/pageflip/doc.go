// Package pageflip measures the ways to get memory from one process into another on the same host: the route of the 2013 series
// ("page flipping": pages given to a pipe, the pipe passed by SCM_RIGHTS, MADV_DONTNEED behind), the plain ways to copy, and passing
// the file that the memory lies in.
//
// [Run] starts two processes for every single move, the donor with the memory and the taker with an empty memfd, and watches them from
// outside: how long it takes, the CPU time of both, how much memory the host holds at the peak, and, by the page frame numbers
// of /proc/PID/pagemap, whether a page that arrived is the very page that left. How it is kept fair:
//
//   - Every route moves the same bytes in the same chunks, in processes of its own, and frees each chunk behind once the taker
//     has it (but for the routes whose name says otherwise).
//   - In a round every route has one turn, in an order that is drawn. The first round only warms up and does not count. What counts are medians, and
//     the median of the ratios to pwrite within rounds.
//   - Each move has content of its own, every byte of which is compared on arrival. A move that loses a byte is no figure: the run fails.
//
// The two processes are the program itself, called as [Options].Peer says, which must come to [Peer]. They die with it. It needs
// root, for the page frame numbers.
//
// It may be imported by cmd; it must not import testing, nor flip and daemon.
package pageflip

// Package pattern is what the test guest writes into its memory: cheap to write and to check (one
// addition and one comparison per word, since the guest may be emulated), and such that a page tells
// where it belongs. The words of a page are an arithmetic sequence that begins with a one-to-one
// mixture of the seed, the page's index and its generation. So a page that was lost, that is an
// earlier state of itself, that is another page, or that is half of each is told apart, and the host
// can find the pages in the guest's RAM.
//
// The package is compiled into the guest, so it may import nothing but the standard library.
package pattern

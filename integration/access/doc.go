// Package access tries who may do what, on a daemon that is a process of its own: with real users of the host on the socket and in the tree,
// with certificates over TCP, and with more clients than there is room for.
package access

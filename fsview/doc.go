// Package fsview shows the state of every VM as a tree of files, and takes commands through a file.
//
//	/mnt/qlive/
//	  abi  version  health  events
//	  migrations/ID/…
//	  vm1/{status,pid,…,ctl,console,qemu_log}
//	  vm1/regions/NAME/…
//	  vm1/migration/…
//
// The tree is an interface that other people's scripts rest on; docs/tree.md describes every file of
// it, and a test holds the two together.
//
// What holds:
//
//   - A file is rendered when it is opened, from the newest [vmstate.Snapshot], and the descriptor keeps
//     what it got: one open, one moment. Nothing here asks QEMU, or waits for anybody, but the
//     file events (until something happens), a write to ctl (until the command is accepted or refused), and whoever
//     looks something up or opens it while a guest stands (until that is over, milliseconds at most: see [Source]).
//   - Nodes hold a path and nothing else. Every request finds its object by that path in the newest
//     snapshot; there is no second copy of the state that could go stale, and a lookup costs the same
//     memory for one VM as for ten thousand.
//   - The kernel caches no text and no name of a VM: all files are read directly, and each VM is looked up each time. Only
//     what cannot change, such as modes, it may remember for a second.
//   - Who may read and write stands in the modes, which the kernel holds everybody to; what a writer of ctl may do is asked once
//     more for each command, by [vmstate.Trust], the rule that REST goes by.
//   - Everything but ctl refuses to be written, moved, removed or changed, also by root.
//   - The descriptor of /dev/fuse is close-on-exec from the start: a QEMU that inherited it would keep a
//     dead daemon's mount hanging.
//
// The process that serves the tree must never open a path in it, nor start a child there: it would wait
// for itself.
//
// The package imports vmstate and nothing else of qlive; the daemon gives it a [Source].
package fsview

// Package memory makes the files that guest RAM lives in, and keeps their descriptors.
//
// A [Set] is the RAM of one VM: one file a block, made by [Create] before any QEMU starts, inherited by
// every QEMU that the VM ever runs in, closed when the VM is gone. Since the files belong to qlive, a
// handoff copies nothing: the next QEMU maps what the last one wrote.
//
// What holds:
//
//   - All or nothing: a Create that fails leaves no descriptor, no huge page and no file behind.
//   - The size of a block never changes. Memfds are sealed against growing and shrinking, and against
//     further seals (F_SEAL_FUTURE_WRITE on guest RAM would keep the next QEMU from mapping it). A file on
//     hugetlbfs cannot be sealed: it is 0600 in a folder that only root may write, and [Region.CheckSize]
//     looks again before each handoff.
//   - Huge pages are promised before Create returns: the kernel reserves them for the file when it is
//     mapped for the first time, and the reservation stays with the file, whoever maps it next, until the
//     file is gone. So a pool that is too small is refused before QEMU starts and the guest's first touch
//     of a page finds one. Only a file that [Remake] makes of pages that another one has is promised them later,
//     by whoever moves the RAM ([Region.Promise]). Nothing is zeroed and no NUMA node is chosen beforehand: pages appear where
//     QEMU's memory policy wants them.
//   - Punching a hole (a balloon, free page reporting) gives back the page and its promise. The next
//     mapping of the file, that of the next QEMU, reserves the holes anew, or fails before the guest stops.
//   - A second mapping of the same file needs no further huge page.
//   - Ordinary RAM gets transparent huge pages where the host allows them (shmem_enabled at advise or more), if QEMU
//     is told to align its mapping to [Region.AlignBytes]; [Set.Warnings] says when the host does not.
//   - All methods may be called by several goroutines at once.
//
// The package must not import anything of qlive but vmstate: it knows neither QEMU nor handoffs.
package memory

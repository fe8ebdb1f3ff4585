package qemu

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pidfdInfo is the first version of struct pidfd_info (linux/pidfd.h).
type pidfdInfo struct {
	mask, cgroup uint64
	ids          [11]uint32
	exitCode     int32 // as wait(2) has it
}

const (
	pidfdGetInfo  = 0xFF<<8 | 11 | 3<<30 | unsafe.Sizeof(pidfdInfo{})<<16 // _IOWR(0xFF, 11, struct pidfd_info)
	pidfdInfoExit = 1 << 3                                                // since Linux 6.15
)

// buried is how long another's child may take from its end until its parent has asked for it, and the kernel tells its exit. Init takes less
// than a millisecond; nobody is kept waiting for one that does not ask.
const buried = 20 * time.Millisecond

// exitOfAnother reads how a process ended that is not our child. Kernels before 6.15 tell nobody but the parent.
func exitOfAnother(raw syscall.RawConn) (e Exit) {
	for deadline := time.Now().Add(buried); ; time.Sleep(time.Millisecond) {
		info := pidfdInfo{mask: pidfdInfoExit}
		var errno syscall.Errno
		err := raw.Control(func(fd uintptr) {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
		})
		switch {
		case err != nil || errno != 0: // released, or the kernel does not know the question
			return Exit{}
		case info.mask&pidfdInfoExit != 0:
			return exitOf(syscall.WaitStatus(uint32(info.exitCode)))
		case time.Now().After(deadline):
			return Exit{}
		}
	}
}

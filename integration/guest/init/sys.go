package main

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// What package syscall does not have. The guest is built for linux/amd64 alone.
const (
	sysClockNanosleep = 230
	sysGetrandom      = 318
	sysFinitModule    = 313
	clockMonotonic    = 1
	timerAbstime      = 1
	schedFIFO         = 1
	grndInsecure      = 4
	madvHugepage      = 14
	tcsbrk            = 0x5409
)

// mountAll mounts what a process 1 needs. That something is mounted already is no error.
func mountAll() error {
	for _, m := range []struct{ kind, on string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m.on, 0o755); err != nil {
			return fmt.Errorf("cannot create %s: %w", m.on, err)
		}
		if err := syscall.Mount(m.kind, m.on, m.kind, 0, ""); err != nil && err != syscall.EBUSY {
			return fmt.Errorf("cannot mount %s: %w", m.on, err)
		}
	}
	return nil
}

// reserve is what a guest needs besides the memory that it fills, in bytes.
const reserve = 12 << 20

// roomFor says whether there is memory to be filled with so many MiB: a guest that runs out of it
// dies with less to tell.
func roomFor(mib uint64) error {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return fmt.Errorf("cannot see how much memory is free: %w", err)
	}
	if free := info.Freeram * uint64(info.Unit); mib<<20+reserve > free {
		return fmt.Errorf("cannot fill %d MiB: %d MiB are free, of which the guest needs %d; give the machine more or fill_mb less",
			mib, free>>20, reserve>>20)
	}
	return nil
}

// rawConsole makes the terminal fd pass bytes as they are, in both directions, and echo nothing.
func rawConsole(fd int) error {
	var t syscall.Termios
	if err := ioctl(fd, syscall.TCGETS, uintptr(unsafe.Pointer(&t))); err != nil {
		return fmt.Errorf("cannot read the console's modes: %w", err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag |= syscall.CREAD | syscall.CLOCAL
	t.Cc[syscall.VMIN], t.Cc[syscall.VTIME] = 1, 0
	if err := ioctl(fd, syscall.TCSETS, uintptr(unsafe.Pointer(&t))); err != nil {
		return fmt.Errorf("cannot set the console's modes: %w", err)
	}
	return nil
}

// drain waits until everything written to the terminal fd has left the machine.
func drain(fd int) error { return ioctl(fd, tcsbrk, 1) }

func ioctl(fd int, request, arg uintptr) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, arg); errno != 0 {
		return errno
	}
	return nil
}

// random returns a number that differs from boot to boot; it never waits for entropy.
func random() (uint64, error) {
	var v uint64
	n, _, errno := syscall.Syscall(sysGetrandom, uintptr(unsafe.Pointer(&v)), 8, grndInsecure)
	if errno != 0 || n != 8 {
		return 0, fmt.Errorf("cannot get a random number: %d bytes, %w", n, errno)
	}
	return v, nil
}

// clock reads CLOCK_MONOTONIC without a system call.
type clock struct {
	start time.Time
	base  int64 // ns of CLOCK_MONOTONIC at start
}

func newClock() clock {
	var ts syscall.Timespec
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&ts)), 0)
	return clock{start: time.Now(), base: ts.Nano()}
}

// now returns CLOCK_MONOTONIC in ns.
func (c clock) now() int64 { return c.base + int64(time.Since(c.start)) }

// sleepUntil sleeps until CLOCK_MONOTONIC is at ns. It keeps its processor's share of Go's scheduler,
// so that waking up waits for nobody.
func (c clock) sleepUntil(ns int64) {
	ts := syscall.NsecToTimespec(ns)
	for {
		_, _, errno := syscall.RawSyscall6(sysClockNanosleep, clockMonotonic, timerAbstime, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		if errno != syscall.EINTR {
			return
		}
	}
}

// ownThread ties the calling goroutine to a thread of its own on one vCPU (counted from the end if
// negative, any if the guest has only one). With first it runs before all other threads of the guest,
// else after them.
func ownThread(cpu int, first bool) error {
	runtime.LockOSThread()
	n := runtime.NumCPU()
	if cpu < 0 {
		cpu += n
	}
	mask := [16]uint64{}
	mask[cpu%n/64] = 1 << (cpu % n % 64)
	if _, _, errno := syscall.Syscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask))); errno != 0 {
		return fmt.Errorf("cannot bind a thread to vCPU %d: %w", cpu, errno)
	}
	if !first {
		return syscall.Setpriority(syscall.PRIO_PROCESS, syscall.Gettid(), 19)
	}
	priority := int32(50)
	if _, _, errno := syscall.Syscall(syscall.SYS_SCHED_SETSCHEDULER, 0, schedFIFO, uintptr(unsafe.Pointer(&priority))); errno != 0 {
		return fmt.Errorf("cannot put the beat before all other threads: %w", errno)
	}
	return nil
}

// loadModule loads one kernel module. That it is loaded already is no error.
func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot load module: %w", err)
	}
	defer func() { _ = f.Close() }()
	none := [1]byte{}
	_, _, errno := syscall.Syscall(sysFinitModule, f.Fd(), uintptr(unsafe.Pointer(&none)), 0)
	if errno != 0 && errno != syscall.EEXIST {
		return fmt.Errorf("cannot load module %s: %w", path, errno)
	}
	return nil
}

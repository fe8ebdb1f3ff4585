package proc

import (
	"os"
	"strconv"
)

// PIDs are the numbers of the processes that there are, those that wait to be buried included.
func PIDs() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var list []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			list = append(list, pid)
		}
	}
	return list, nil
}

// Children are the children of a process that there are, those that wait to be buried included. One that ends meanwhile may be left out.
func Children(pid int) ([]Stat, error) {
	pids, err := PIDs()
	var list []Stat
	for _, p := range pids {
		if s, err := ReadStat(p); err == nil && s.Parent == pid {
			list = append(list, s)
		}
	}
	return list, err
}

// ReadCmdline is the command line of a process, each argument ended by a zero byte. It is empty for a thread of the kernel and for a process that
// has ended.
func ReadCmdline(pid int) ([]byte, error) { return os.ReadFile(file(pid, "cmdline")) }

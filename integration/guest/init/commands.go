package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"qlive/integration/guest/wire"
)

// commands reads commands off the console and obeys them, for ever.
func (g *guest) commands() error {
	var pending []byte
	buf := make([]byte, 256)
	for {
		n, err := syscall.Read(g.console.fd, buf)
		if err == syscall.EINTR || err == syscall.EAGAIN {
			continue
		}
		if err != nil || n == 0 {
			return fmt.Errorf("cannot read the console: %d bytes, %w", n, err)
		}
		pending = append(pending, buf[:n]...)
		for {
			line, rest, found := bytes.Cut(pending, []byte{'\n'})
			if !found {
				break
			}
			if err := g.obey(string(line)); err != nil {
				g.console.sayError(err)
			}
			pending = append(pending[:0], rest...)
		}
		if len(pending) > wire.MaxLine {
			g.console.sayError(fmt.Errorf("cannot obey %d bytes without a newline: dropped", len(pending)))
			pending = pending[:0]
		}
	}
}

// obey obeys one command.
func (g *guest) obey(line string) error {
	verb, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch verb {
	case "":
		return nil
	case "echo":
		g.console.say(wire.Text(wire.KindEcho, arg))
	case "devices":
		g.console.say(wire.Text(wire.KindAck, devices()))
	case "verify":
		g.requests <- wire.Word(arg)
	case "rate":
		n, err := strconv.ParseUint(arg, 10, 32)
		if err != nil {
			return fmt.Errorf("cannot set rate %q: give pages per second", arg)
		}
		g.rate.Store(n)
		g.console.say(wire.Text(wire.KindAck, fmt.Sprintf("rate %d", n)))
	case "reboot":
		g.console.last <- ending{verb, func() error { return syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART) }}
	case "poweroff":
		g.console.last <- ending{verb, func() error { return syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF) }}
	case "panic":
		g.console.last <- ending{verb, func() error { return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0) }}
	default:
		return fmt.Errorf("cannot obey %q: no such command", verb)
	}
	return nil
}

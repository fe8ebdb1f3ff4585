package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"qlive/vmstate"
)

// columns is the widest that a line may be.
const columns = 80

// screen is where it all is shown. On a terminal the last lines may live: they are written over by what comes next.
type screen struct {
	w      io.Writer
	isLive bool
	bold   bool
	width  int // of a line
	open   int // lines on the screen that live
	err    error
}

func newScreen(w io.Writer, getenv func(string) string) *screen {
	s := &screen{w: w, width: columns}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && getenv("TERM") != "dumb" {
		s.isLive = true
		s.bold = getenv("NO_COLOR") == ""
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			s.width = min(w, columns)
		}
	}
	return s
}

// write writes, and keeps the first error.
func (s *screen) write(text string) {
	if _, err := io.WriteString(s.w, text); err != nil && s.err == nil {
		s.err = vmstate.Errorf(vmstate.Host, "cannot show anything: %w", err)
	}
}

// clear takes the lines that live off the screen.
func (s *screen) clear() {
	if s.open > 0 {
		s.write(fmt.Sprintf("\r\x1b[%dA\x1b[J", s.open))
		s.open = 0
	}
}

// text writes a line that stays.
func (s *screen) text(format string, args ...any) {
	s.clear()
	s.write(fmt.Sprintf(format, args...) + "\n")
}

// live shows lines until the next that is shown; nothing where they cannot be taken back.
func (s *screen) live(format string, args ...any) {
	if !s.isLive {
		return
	}
	s.clear()
	for line := range strings.Lines(fmt.Sprintf(format, args...) + "\n") {
		s.write(cut(strings.TrimSuffix(line, "\n"), s.width-1) + "\n")
		s.open++
	}
}

// command shows a command as one would type it, and returns it as it is shown.
func (s *screen) command(line string) string {
	line = wrapped(line, columns-2) // for the prompt
	if s.bold {
		s.text("\x1b[1m$ %s\x1b[m", line)
	} else {
		s.text("$ %s", line)
	}
	return line
}

// run shows a command, has a shell run it, and shows what it said, long lines cut. What it said whole is returned.
func (s *screen) run(ctx context.Context, p *place, line string) (string, error) {
	const limit = time.Minute
	line = s.command(line)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, vmstate.Errorf(vmstate.Timeout, "cannot wait longer than %s for this command", limit))
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	var said bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.dir, p.environ(), &said, &said
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C is for the demonstration
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	for line := range strings.Lines(said.String()) {
		s.text("%s", cut(strings.TrimSuffix(line, "\n"), s.width))
	}
	if ctx.Err() != nil {
		return said.String(), context.Cause(ctx)
	}
	if err != nil {
		return said.String(), errors.Join(vmstate.Errorf(vmstate.Internal, "cannot go on: this command failed: %w", err), s.err)
	}
	return said.String(), s.err
}

// cut shortens a line to so many characters, and shows that it did.
func cut(line string, most int) string {
	if utf8.RuneCountInString(line) <= most {
		return line
	}
	return string([]rune(line)[:max(0, most-1)]) + "…"
}

// wrapped breaks a command at its blanks so that a shell reads it as before. An option and its value stay together.
func wrapped(line string, most int) string {
	const more, indent = ` \`, "    "
	var out strings.Builder
	used := 0
	for i, part := range parts(line) {
		n := utf8.RuneCountInString(part)
		switch {
		case i == 0:
		case used+1+n+len(more) > most:
			out.WriteString(more + "\n" + indent)
			used = len(indent)
		default:
			out.WriteByte(' ')
			used++
		}
		out.WriteString(part)
		used += n
	}
	return out.String()
}

// parts are the words of a command, an option with its value in one.
func parts(line string) []string {
	var out []string
	option := false
	for _, word := range strings.Split(line, " ") {
		isOption := strings.HasPrefix(word, "-")
		if option && !isOption {
			out[len(out)-1] += " " + word
		} else {
			out = append(out, word)
		}
		option = isOption
	}
	return out
}

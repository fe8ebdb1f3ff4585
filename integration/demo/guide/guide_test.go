package guide_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/guest/bootsector"
)

const (
	page  = "../../../docs/guide.md"
	limit = 2 * time.Minute // for one command
)

// step is a command of the guide, and what it says it answers.
type step struct {
	line    int
	command string
	want    []string
}

// read takes the commands out of the page's console blocks.
func read(t *testing.T) []step {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var steps []step
	inside, more := false, false
	for i, line := range strings.Split(string(text), "\n") {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case line == "```console":
			inside = true
		case line == "```":
			inside = false
		case !inside:
		case more:
			steps[len(steps)-1].command += "\n" + line
		case isCommand:
			steps = append(steps, step{line: i + 1, command: command})
		case len(steps) == 0:
			t.Fatalf("%s:%d: an answer without a command", page, i+1)
		default:
			steps[len(steps)-1].want = append(steps[len(steps)-1].want, line)
		}
		more = inside && (isCommand || more) && strings.HasSuffix(line, `\`)
	}
	return steps
}

// shell is where the commands are typed.
type shell struct {
	in  io.Writer
	out *bufio.Reader
	ps  *os.File // of out
}

// newShell sets the scene.
func newShell(t *testing.T) *shell {
	t.Helper()
	e, err := env.Locate()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program, image := filepath.Join(dir, "qlive"), filepath.Join(dir, "vm1.img")
	if err := env.Build(t.Context(), program, "test"); err != nil {
		t.Fatal(err)
	}
	if err := bootsector.Write(image); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 1<<20); err != nil { // as a disk has it
		t.Fatal(err)
	}
	keepPool(t)

	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "testdata/scene.sh")
	cmd.Env = append(os.Environ(), "CACHE="+e.Cache, "PROGRAM="+program, "IMAGE="+image)
	cmd.Stdout, cmd.Stderr = w, w
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Process.Kill() // and with it, by --kill-child, all that is left in there
		_ = cmd.Wait()
		out.Close()
	})
	return &shell{in: in, out: bufio.NewReader(out), ps: out}
}

// keepPool puts the pool of huge pages back.
func keepPool(t *testing.T) {
	const pool = "/proc/sys/vm/nr_hugepages"
	before, err := os.ReadFile(pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(pool, before, 0); err != nil {
			t.Error(err)
		}
	})
}

// mark ends the answer to a command.
const mark = "-- that was it: "

// run types a command and gives its answer and exit code.
func (s *shell) run(command string) (string, string, error) {
	if err := s.ps.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return "", "", err
	}
	// What was typed sees the exit code of what was typed before.
	if _, err := fmt.Fprintf(s.in, "(exit ${code:-0})\n%s\ncode=$?; printf '\\n%s%%d\\n' $code\n", command, mark); err != nil {
		return "", "", err
	}
	var said strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if code, ok := strings.CutPrefix(line, mark); ok {
			return strings.TrimSuffix(said.String(), "\n"), strings.TrimSpace(code), nil
		}
		said.WriteString(line)
		if err != nil {
			return said.String(), "", err
		}
	}
}

// started waits until a daemon that was typed answers, as a person does without thinking.
func (s *shell) started(command string) error {
	socket := "/run/qlive/qlive.sock"
	if _, rest, found := strings.Cut(command, "--socket "); found {
		socket, _, _ = strings.Cut(rest, " ")
	}
	_, code, err := s.run("for i in $(seq 300); do curl -sf --unix-socket " + socket + " http://qlive/readyz >/dev/null && break; sleep 0.1; done")
	if err == nil && code != "0" {
		err = fmt.Errorf("the daemon does not answer on %s", socket)
	}
	return err
}

// TestGuide runs the guide.
func TestGuide(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the guide is for root, and so is its test")
	}
	steps := read(t)
	if len(steps) < 50 {
		t.Fatalf("the guide has only %d commands", len(steps))
	}
	s := newShell(t)
	for _, step := range steps {
		said, code, err := s.run(step.command)
		if err == nil && strings.HasPrefix(step.command, "qlive daemon ") {
			err = s.started(step.command)
		}
		t.Logf("$ %s\n%s", step.command, said)
		if err != nil {
			t.Fatalf("%s:%d: %v", page, step.line, err)
		}
		if code != "0" && !slices.ContainsFunc(step.want, tellsFailure) {
			t.Errorf("%s:%d: exit %s, and the guide does not say that it fails: %s", page, step.line, code, step.command)
		}
		if !matches(step.want, strings.Split(said, "\n")) {
			t.Errorf("%s:%d: %s\nthe guide says:\n%s\nit says:\n%s", page, step.line, step.command, strings.Join(step.want, "\n"), said)
		}
	}
	if t.Failed() {
		log, _, _ := s.run("cat /var/log/qlive.log")
		t.Logf("the daemon's log:\n%s", log)
	}
}

// tellsFailure tells whether a line of the guide says that the command fails.
func tellsFailure(line string) bool {
	return strings.HasPrefix(line, "qlive: ") || strings.HasPrefix(line, "fail ")
}

// matches compares an answer with what the guide says. Blanks count as one, and an ellipsis stands for anything: alone on its line
// also for any number of lines.
func matches(want, got []string) bool {
	got = slices.DeleteFunc(slices.Clone(got), func(line string) bool { return strings.TrimSpace(line) == "" })
	var pattern strings.Builder
	for _, line := range want {
		switch line = strings.Join(strings.Fields(line), " "); line {
		case "":
		case "…":
			pattern.WriteString(`(?:.*\n)*`)
		default:
			pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*") + `\n`)
		}
	}
	var text strings.Builder
	for _, line := range got {
		text.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return regexp.MustCompile(`^` + pattern.String() + `$`).MatchString(text.String())
}

// TestNamed looks up what the guide names in its sentences: each `qlive …` is a command, and each flag with it one of its own.
func TestNamed(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "qlive")
	if err := env.Build(t.Context(), program, "test"); err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`^[a-z]+$`)
	spans := regexp.MustCompile("`qlive ([^`]+)`").FindAllStringSubmatch(string(text), -1)
	if len(spans) < 5 {
		t.Fatalf("the guide names only %d commands", len(spans))
	}
	for _, span := range spans {
		args := strings.Fields(span[1])
		n := slices.IndexFunc(args, func(word string) bool { return !command.MatchString(word) || strings.HasPrefix(word, "vm") })
		if n < 0 {
			n = len(args)
		}
		help, err := exec.Command(program, append(slices.Clone(args[:n]), "--help")...).CombinedOutput()
		if err != nil || !strings.Contains(string(help), "qlive "+strings.Join(args[:n], " ")) {
			t.Errorf("`qlive %s`: %v\n%s", span[1], err, help)
		}
		for _, word := range args[n:] {
			if strings.HasPrefix(word, "--") && word != "--" && !strings.Contains(string(help), word) {
				t.Errorf("`qlive %s` has no %s", span[1], word)
			}
		}
	}
}

// TestLinks follows the links to other pages and to headings.
func TestLinks(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(string(text), -1) {
		file, heading, ok := strings.Cut(link[1], "#")
		path := page
		if file != "" {
			path = filepath.Join(filepath.Dir(page), file)
		}
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		} else if ok && !headings(t, path)[heading] {
			t.Errorf("there is no heading %s in %s", heading, path)
		}
	}
}

// headings are those of a page that can be linked to, as links name them.
func headings(t *testing.T, path string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			title = regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			found[strings.ReplaceAll(title, " ", "-")] = true
		}
	}
	return found
}

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		name, want, got string
		ok              bool
	}{
		{"the same", "a b\nc", "a b\nc", true},
		{"blanks", "a b", "a    b  ", true},
		{"something between", "pid …, b", "pid 12, b", true},
		{"lines between", "a\n…\nb", "a\nx\ny\nb", true},
		{"no lines between", "a\n…\nb", "a\nb", true},
		{"nothing", "", "", true},
		{"more than nothing", "", "a", false},
		{"another line", "a\nb", "a\nc", false},
		{"a line too much", "a", "a\nb", false},
		{"a line too few", "a\nb", "a", false},
		{"no pattern", "a.c", "abc", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if matches(strings.Split(test.want, "\n"), strings.Split(test.got, "\n")) != test.ok {
				t.Errorf("%q and %q: want %t", test.want, test.got, test.ok)
			}
		})
	}
}

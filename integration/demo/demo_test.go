package demo_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"qlive/integration/env"
)

// TestDemo holds the demonstration to all that it is to show.
func TestDemo(t *testing.T) {
	x := start(t, nil)
	before := traces(t, x.base+"-not") // of any run: there is none yet
	said, code := x.end()
	if code != 0 {
		t.Fatalf("exit %d:\n%s", code, said)
	}
	x.gone(before)
	for line := range strings.Lines(said) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	path := []string{env.Installed, env.Backport, env.Newest, env.Installed}
	parts := strings.Split(said, "\n# ")
	if len(parts) != len(path) {
		t.Fatalf("%d handoffs, want %d:\n%s", len(parts)-1, len(path)-1, said)
	}
	find(t, parts[0], `\$ cat \S+/mnt/vm1/status\nrunning\n`)
	find(t, parts[0], `\nvm1 is running: 7\.2\.22, pid \d+\n`)
	for i, part := range parts[1:] {
		t.Run(path[i]+" to "+path[i+1], func(t *testing.T) { checkHop(t, part, path[i], path[i+1]) })
	}
	checkTable(t, parts[len(parts)-1])
	find(t, said, `Nothing is left of it: no process, no mount, no file\.\n$`)
}

// find gives the groups of what must be there.
func find(t *testing.T, text, pattern string) []string {
	t.Helper()
	groups := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if groups == nil {
		t.Fatalf("there is no %q in:\n%s", pattern, text)
	}
	return groups[1:]
}

// checkHop looks at what one handoff showed: the command, its real answer, each step of the region, the QEMU afterwards.
func checkHop(t *testing.T, part, from, to string) {
	find(t, part, `^\d of 3: from `+regexp.QuoteMeta(from)+` to `+regexp.QuoteMeta(to)+"\n")
	find(t, part, `\$ curl -sS --unix-socket \S+/sock (?:\\\n    )?http://qlive/migrations \\\n    -d '\{"vm":"vm1","binary":"\S+/qemu-`+regexp.QuoteMeta(to)+`"\}'\n\{"id":"mig-`)
	var states []string
	last := -1
	for _, line := range regexp.MustCompile(`(?m)^    pc\.ram +(\w+) +\[[#.]+\] +(\d+)% of 192 MiB$`).FindAllStringSubmatch(part, -1) {
		states = append(states, line[1])
		percent, err := strconv.Atoi(line[2])
		if err != nil || percent < last {
			t.Errorf("progress goes from %d to %s", last, line[2])
		}
		last = percent
	}
	if got := strings.Join(states, " "); !regexp.MustCompile(`^(owned )?mapped (populated )*flipped released$`).MatchString(got) || last != 100 {
		t.Errorf("the region went %q, to %d%%", got, last)
	}
	for _, phase := range []string{"preparing", "switching", "committed", "completed"} {
		find(t, part, `(?m)^  `+phase+` +\+[\d.]+ ms$`)
	}
	find(t, part, `\$ cat \S+/mnt/vm1/qemu_version\n`+regexp.QuoteMeta(to)+"\n")
}

// checkTable looks at the numbers.
func checkTable(t *testing.T, text string) {
	row := func(head string) []float64 {
		t.Helper()
		cells := find(t, text, `(?m)^`+head+` +([\d.]+)(?: ms)? +([\d.]+)(?: ms)? +([\d.]+)(?: ms)?$`)
		var out []float64
		for _, cell := range cells {
			x, err := strconv.ParseFloat(cell, 64)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, x)
		}
		return out
	}
	pause, qemu, gap := row("pause, from stop to cont"), row("  by QEMU's own clock"), row("largest gap between two beats")
	for i := range pause {
		if qemu[i] <= 0 || pause[i] < qemu[i] || gap[i] <= 0 { // a pause holds QEMU's own
			t.Errorf("handoff %d: pause %v ms, QEMU's %v ms, gap %v ms", i+1, pause[i], qemu[i], gap[i])
		}
	}
	for i, lost := range row("heartbeats lost") {
		if lost != 0 {
			t.Errorf("handoff %d lost %v beats", i+1, lost)
		}
	}
	find(t, text, `(?m)^memory checksum afterwards +the same +the same +the same$`)
	beats, err := strconv.Atoi(find(t, text, `(?m)^heartbeats  (\d+) in all, 0 lost, 0 repeated;`)[0])
	if err != nil || beats < 500 {
		t.Errorf("%d beats, %v", beats, err)
	}
	if sums := find(t, text, `(?m)^checksum    ([0-9a-f]{16}) before, ([0-9a-f]{16}) after, by the guest itself$`); sums[0] != sums[1] {
		t.Errorf("checksums %v", sums)
	}
	memory := find(t, text, `(?m)^memory      (\d+) MiB of guest RAM, held once; at the peak the host held (-?[\d.]+) MiB\n +more than before, where a second copy would have taken (\d+) MiB$`)
	var mib [3]float64
	for i := range mib {
		if mib[i], err = strconv.ParseFloat(memory[i], 64); err != nil {
			t.Fatal(err)
		}
	}
	// The guest has filled 64 MiB. A second QEMU has memory of its own, but not the guest's.
	if mib[0] < 64 || mib[0] > 192 || mib[2] < 64 || mib[1] <= 0 || mib[1] > 64 {
		t.Errorf("memory %v MiB", mib)
	}
}

// TestEndedEarly ends the demonstration at many moments, in many ways: nothing may be left.
func TestEndedEarly(t *testing.T) {
	const interrupted = 130
	for _, test := range []struct {
		name, at string
		how      func(*run)
		bare     bool // it has no process at that moment
	}{
		{"before it begins", "This is real", func(x *run) { x.signal(os.Interrupt) }, true},
		{"as the daemon starts", "qlive.yaml &\n", func(x *run) { x.signal(os.Interrupt) }, false},
		{"while the guest boots", "/status\nrunning\n", func(x *run) { x.signal(syscall.SIGTERM) }, false},
		{"in a handoff", "\n  preparing ", func(x *run) { x.signal(os.Interrupt) }, false},
		{"in a handoff that switches", "\n  switching ", func(x *run) { x.signal(os.Interrupt) }, false},
		{"twice", "# 2 of 3", func(x *run) { x.signal(os.Interrupt); x.signal(os.Interrupt); x.signal(syscall.SIGTERM) }, false},
		{"the terminal goes", "\n  completed ", func(x *run) { x.signal(syscall.SIGHUP) }, false},
		{"nobody reads any more", "# 1 of 3", func(x *run) { x.out.r.Close() }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := start(t, nil)
			before := traces(t, x.base+"-not")
			x.until(test.at)
			if !test.bare {
				x.lives()
			}
			test.how(x)
			if test.name == "nobody reads any more" {
				<-x.done // by SIGPIPE, as others do, once it has tidied up
				x.gone(before)
				return
			}
			if said, _ := x.end(); !strings.HasSuffix(said, "\nInterrupted.\nNothing is left of it: no process, no mount, no file.\n") {
				t.Errorf("it said:\n%s", said)
			}
			if x.code != interrupted {
				t.Errorf("exit %d", x.code)
			}
			x.gone(before)
		})
	}
}

// TestKilled kills the demonstration as only kill -9 does: the next run tidies up after it.
func TestKilled(t *testing.T) {
	x := start(t, nil)
	before := traces(t, x.base+"-not")
	x.until("# 2 of 3")
	x.lives()
	x.signal(os.Kill)
	<-x.done
	left := traces(t, x.base)
	if len(left) < 4 { // daemon, QEMU, mount, folder
		t.Fatalf("of a killed run there is left %v", left)
	}
	dirs, err := filepath.Glob(x.base + "/*")
	if err != nil || len(dirs) != 1 {
		t.Fatalf("it has the folders %v, %v", dirs, err)
	}
	next := startIn(t, x.base, nil)
	next.until("This is real")
	if left := traces(t, x.base); strings.Contains(strings.Join(left, "\n"), dirs[0]) {
		t.Errorf("the next run has begun, and there is still %v", left)
	}
	next.signal(os.Interrupt)
	next.end()
	next.gone(before)
}

// TestDaemonFails lets the daemon die, or hang: the demonstration ends and takes everything with it.
func TestDaemonFails(t *testing.T) {
	for _, test := range []struct {
		name string
		sig  syscall.Signal
		want string
	}{
		{"dies", syscall.SIGKILL, "cannot go on without the daemon, which has ended: signal: killed"},
		{"hangs", syscall.SIGSTOP, "cannot see the daemon end: it was killed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			x := start(t, nil)
			before := traces(t, x.base+"-not")
			x.until("# 2 of 3")
			if err := syscall.Kill(x.daemon(), test.sig); err != nil {
				t.Fatal(err)
			}
			if test.sig == syscall.SIGSTOP {
				x.signal(os.Interrupt)
			}
			said, code := x.end()
			if code == 0 || !strings.Contains(said, test.want) {
				t.Errorf("exit %d:\n%s", code, said)
			}
			x.gone(before)
		})
	}
}

// daemon is the number of the run's daemon.
func (x *run) daemon() int {
	x.t.Helper()
	for _, line := range x.survivors() {
		if pid, rest, _ := strings.Cut(strings.TrimPrefix(line, "process "), ":"); strings.Contains(rest, "/bin/qlive daemon ") {
			n, err := strconv.Atoi(pid)
			if err != nil {
				x.t.Fatal(err)
			}
			return n
		}
	}
	x.t.Fatalf("there is no daemon among %v", x.survivors())
	return 0
}

// cacheOf makes a cache with a kernel and these QEMUs.
func cacheOf(t *testing.T, qemus map[string]string) string {
	t.Helper()
	e, err := env.Locate()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	link := func(target, name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link(e.Kernel, "kernel/vmlinuz")
	link(filepath.Join(e.Cache, "guest"), "guest") // built already
	for version, program := range qemus {
		if program == "" {
			program = e.QEMU(version)
		}
		link(program, "qemu/"+version+"/qemu-system-x86_64")
	}
	return dir
}

// TestOneQEMU has no other QEMU than the one: the guest goes to a second instance of it, and the demonstration says so. The cache lies
// in the folder of a user, as it does after `sudo make demo`.
func TestOneQEMU(t *testing.T) {
	cache := cacheOf(t, map[string]string{env.Installed: ""})
	if err := os.Chown(cache, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	x := start(t, []string{"QLIVE_CACHE=" + cache})
	said, code := x.end()
	if code != 0 {
		t.Fatalf("exit %d:\n%s", code, said)
	}
	find(t, said, `There is only QEMU 7\.2\.22 here: the guest goes to a second instance of it\.`)
	find(t, said, `(?m)^memory checksum afterwards +the same +the same$`)
}

// TestTargetThatFails has a newer QEMU that does not start: the handoff is undone, the demonstration says why, and fails.
func TestTargetThatFails(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho this QEMU has no libraries >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	x := start(t, []string{"QLIVE_CACHE=" + cacheOf(t, map[string]string{env.Installed: "", env.Newest: broken})})
	before := traces(t, x.base+"-not")
	said, code := x.end()
	if code == 0 || !strings.Contains(said, "this QEMU has no libraries") || strings.Contains(said, "WHAT IT COST") {
		t.Errorf("exit %d:\n%s", code, said)
	}
	x.gone(before)
}

// TestWhatIsMissing runs where the demonstration cannot: it says what is missing, and makes nothing.
func TestWhatIsMissing(t *testing.T) {
	for _, test := range []struct {
		name  string
		shell string // runs it
		env   []string
		want  string
		code  int
	}{
		{"root", `setpriv --reuid 65534 --regid 65534 --clear-groups "$@"`, nil, "cannot run the demonstration as the user 65534", 4},
		{"/dev/fuse", `unshare --mount sh -c 'mount -t tmpfs none /dev && exec "$@"' sh "$@"`, nil, "cannot mount the tree: open /dev/fuse: no such file or directory\n  → modprobe fuse", 1},
		{"curl", `PATH=/nowhere exec "$@"`, nil, "curl is not installed", 3},
		{"a kernel and QEMUs", `exec "$@"`, []string{"QLIVE_CACHE=/nowhere"}, "cannot find QEMU 7.2.22", 3},
		{"a place for sockets", `exec "$1" demo --dir /tmp/` + strings.Repeat("x", 80), nil, "sockets below it would be too long\n  → choose a folder", 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			base := shortDir(t)
			if err := os.Chmod(filepath.Dir(program), 0o755); err != nil {
				t.Fatal(err)
			}
			said, code := shell(t, test.shell, test.env, program, "demo", "--dir", base)
			if code != test.code || !strings.Contains(said, test.want) {
				t.Errorf("exit %d, want %d with %q:\n%s", code, test.code, test.want, said)
			}
			if left, err := os.ReadDir(base); err != nil || len(left) > 0 {
				t.Errorf("left %v, %v", left, err)
			}
		})
	}
}

func shell(t *testing.T, script string, env []string, args ...string) (string, int) {
	t.Helper()
	cmd := command(append([]string{"sh", "-c", script, "sh"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

package qemu_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

func itoa(n int) string { return strconv.Itoa(n) }

func admit(t *testing.T, path string) *qemu.Binary {
	t.Helper()
	b, err := qemu.Admit(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// script makes a binary of a shell script.
func script(t *testing.T, text string) *qemu.Binary {
	t.Helper()
	return admit(t, write(t, folder(t, 0o755)+"/qemu", "#!/bin/sh\n"+text+"\n", 0o755))
}

// speak is a script that plays QEMU on descriptor 3, badly.
const speak = `echo '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 99}, "package": ""}, "capabilities": []}}' >&3`

func TestProbeFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		text  string
		kind  vmstate.Kind
		says  string
		words string
	}{
		"ends at once":      {"exit 0", vmstate.QEMU, "ended with status 0 before it answered", ""},
		"ends with words":   {"echo 'qemu: no such library' >&2; exit 127", vmstate.QEMU, "ended with status 127", "qemu: no such library"},
		"refuses":           {`echo "usage: $1" >&2; exit 1`, vmstate.QEMU, "ended with status 1", "usage: -machine"},
		"is killed":         {"kill -9 $$", vmstate.QEMU, "killed by signal 9", ""},
		"never answers":     {"exec sleep 1000", vmstate.Timeout, "has not answered within", ""},
		"prints rubbish":    {"while :; do echo rubbish; done >&3", vmstate.QEMU, "cannot find out what", ""},
		"speaks half":       {speak + "; exec sleep 1000", vmstate.Timeout, "has not answered within", ""},
		"ends in the midst": {speak + "; head -c 10 <&3 >&2; exit 5", vmstate.QEMU, "ended with status 5", ""},
		"hangs up":          {"exec 3>&-; exec sleep 1000", vmstate.QEMU, "cannot find out what", ""},
		"talks on stdout":   {"echo hello; exec sleep 1000", vmstate.Timeout, "has not answered within", "hello"},
	} {
		t.Run(name, func(t *testing.T) {
			prober := qemu.NewProber(nil)
			if tt.kind == vmstate.Timeout {
				prober.SetTimeout(300 * time.Millisecond)
			}
			info, err := prober.Probe(t.Context(), script(t, tt.text))
			p := vmstate.ProblemOf(err)
			if err == nil || p.Kind() != tt.kind || !strings.Contains(p.Detail, tt.says) || !strings.Contains(strings.Join(p.QEMU, "\n"), tt.words) {
				t.Errorf("%+v, %+v; want %s with %q and %q", info, p, tt.kind, tt.says, tt.words)
			}
			if prober.Known() != 0 {
				t.Error("a failure is remembered")
			}
		})
	}
}

func TestProbeIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("somebody does not want to know")
	timer := time.AfterFunc(200*time.Millisecond, func() { cancel(why) })
	defer timer.Stop()
	prober := qemu.NewProber(nil)
	if _, err := prober.Probe(ctx, script(t, "exec sleep 1000")); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	if _, err := prober.Probe(ctx, script(t, "exec sleep 1000")); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}

// TestProbe asks the QEMU that Debian installs.
func TestProbe(t *testing.T) {
	const path = "/usr/bin/qemu-system-x86_64"
	prober := qemu.NewProber(nil)
	info, err := prober.Probe(t.Context(), admit(t, path))
	if err != nil {
		t.Fatal(err)
	}
	q35, ok := info.Machine("q35")
	if !ok || !strings.HasPrefix(q35.Name, "pc-q35-") || q35.RAMID != "pc.ram" || !info.Can("x-ignore-shared") || info.Can("x-nothing") ||
		info.Version.Major < 5 || info.Binary != path {
		t.Errorf("%+v, %+v", q35, info)
	}
	if named, ok := info.Machine(q35.Name); !ok || named != q35 {
		t.Errorf("%+v", named)
	}
	if _, ok := info.Machine(""); ok {
		t.Error("there is a machine without a name")
	}
	again, err := prober.Probe(t.Context(), admit(t, path))
	if err != nil || prober.Known() != 1 || again.Version != info.Version {
		t.Errorf("%+v, %v", again, err)
	}
}

func TestLearn(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kernel := append(make([]byte, 0x202), "HdrS and the rest"...)
	if err := os.WriteFile(filepath.Join(dir, "kernel"), kernel, 0o600); err != nil {
		t.Fatal(err)
	}
	info := &qemu.Info{Machines: []cmdline.Machine{{Name: "pc-1", Alias: "pc", Default: true, RAMID: "pc.ram"}}}
	object := func(id, path string) []string {
		return []string{"-object", "memory-backend-file,id=" + id + ",size=1G,mem-path=" + path}
	}
	args := []string{"-kernel", "kernel"}
	for id, path := range map[string]string{"a": "file", "b": dir, "c": "/dev/shm", "d": "no/such/file", "e": "/dev/shm/no/such"} {
		args = append(args, object(id, path)...)
	}
	facts, err := qemu.Learn(args, dir, info)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]cmdline.PathInfo{
		"file":             {Exists: true, Regular: true},
		"kernel":           {Exists: true, Regular: true, Linux: true},
		dir:                {Exists: true, Dir: true},
		"/dev/shm":         {Exists: true, Dir: true, Memory: true},
		"no/such/file":     {},
		"/dev/shm/no/such": {Memory: true},
	} {
		got := facts.Paths[path]
		if !strings.HasPrefix(path, "/dev") {
			got.Memory = false // whatever the test's folder lies on
		}
		if got != want {
			t.Errorf("%s is %+v, want %+v", path, got, want)
		}
	}
	if facts.Machine.Name != "pc-1" || len(facts.GUID) != 36 {
		t.Errorf("%+v", facts)
	}
	other, err := qemu.Learn(nil, dir, info)
	if err != nil || other.GUID == facts.GUID || other.Paths != nil {
		t.Errorf("%+v, %v", other, err)
	}
	if _, err := qemu.Learn([]string{"-M", "q35"}, dir, info); vmstate.KindOf(err) != vmstate.Unsupported {
		t.Errorf("%v", err)
	}
}

package guest_test

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qlive/integration/guest"
	"qlive/integration/guest/beats"
	"qlive/integration/guest/wire"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAppend(t *testing.T) {
	const std = "console=ttyS0,115200 quiet loglevel=1 tsc=reliable no_timer_check nowatchdog cryptomgr.notests"
	tests := map[string]struct {
		params guest.Params
		want   string
	}{
		"defaults": {guest.Params{}, std},
		"all": {guest.Params{FillMiB: 8, DirtyMiB: 2, DirtyPPS: 3, VerifySecs: 4, BeatMicros: 500, KernelParams: []string{"panic=-1"}},
			std + " qlive.fill_mb=8 qlive.dirty_mb=2 qlive.dirty_pps=3 qlive.verify_s=4 qlive.beat_us=500 panic=-1"},
		"none": {guest.Params{DirtyMiB: -1, DirtyPPS: -1, VerifySecs: -1}, std + " qlive.dirty_mb=0 qlive.dirty_pps=0 qlive.verify_s=0"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := guest.Append(tt.params); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestInitramfsIsWhatCpioReads(t *testing.T) {
	program := bytes.Repeat([]byte("program"), 1001)
	archive := guest.Initramfs(program, guest.Module{Name: "virtio", Data: []byte("module")})
	if !bytes.Equal(archive, guest.Initramfs(program, guest.Module{Name: "virtio", Data: []byte("module")})) {
		t.Error("the same parts make another archive")
	}
	got := unpack(t, archive)
	want := map[string]string{"dev": "", "dev/console": "", "init": string(program), "modules": "", "modules/00-virtio.ko": "module"}
	if len(got) != len(want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
	for name, data := range want {
		if got[name] != data {
			t.Errorf("%s: %d bytes, want %d", name, len(got[name]), len(data))
		}
	}
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Log("no cpio here: only our own reader and the kernel have read the archive")
		return
	}
	cmd := exec.Command("cpio", "-t", "--quiet")
	cmd.Stdin = bytes.NewReader(archive)
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "dev\ndev/console\ninit\nmodules\nmodules/00-virtio.ko\n" {
		t.Errorf("cpio -t: %v\n%s", err, out)
	}
}

// unpack reads a newc archive by the letter of its format.
func unpack(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	hex := func(at int) (v int) {
		for _, c := range archive[at : at+8] {
			v = v<<4 | strings.IndexByte("0123456789abcdef", c)
		}
		return v
	}
	files := map[string]string{}
	for at := 0; ; {
		if string(archive[at:at+6]) != "070701" || at%4 != 0 {
			t.Fatalf("no header at %d: %q", at, archive[at:at+6])
		}
		size, length := hex(at+6+6*8), hex(at+6+11*8)
		name := string(archive[at+110 : at+110+length-1])
		data := (at + 110 + length + 3) &^ 3
		if name == "TRAILER!!!" {
			return files
		}
		files[name] = string(archive[data : data+size])
		at = (data + size + 3) &^ 3
	}
}

func TestBuild(t *testing.T) {
	cache := t.TempDir()
	ctx := t.Context()
	initrd, err := guest.Build(ctx, cache)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(initrd)
	if err != nil {
		t.Fatal(err)
	}
	program, err := elf.NewFile(strings.NewReader(unpack(t, archive)["init"]))
	if err != nil {
		t.Fatalf("/init is no program: %v", err)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("/init is not static")
		}
	}
	before, err := os.Stat(initrd)
	if err != nil {
		t.Fatal(err)
	}
	again, err := guest.Build(ctx, cache)
	after, statErr := os.Stat(again)
	if err != nil || statErr != nil || again != initrd || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("built again: %s (%v, %v), first %s", again, err, statErr, initrd)
	}
	other, err := guest.Build(ctx, cache, guest.Module{Name: "m", Data: []byte("x")})
	if err != nil || other == initrd {
		t.Errorf("with a module: %s, %v", other, err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "guest", "*", "[.b]*")); left != nil {
		t.Errorf("left behind: %s", left)
	}
}

func TestBuildSaysWhatIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := guest.Build(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "is the go tool installed?") {
		t.Errorf("without a go tool: %v", err)
	}
}

func beat(seq uint64) string {
	return string(wire.Beat{Seq: seq, Micros: int64(seq) * 2000}.Append(nil))
}

func write(t *testing.T, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

func TestConsoleJoinsGenerations(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var raw bytes.Buffer
	c := guest.NewConsole(&raw)
	source, sourceEnd := net.Pipe()
	target, targetEnd := net.Pipe()
	unused, unusedEnd := net.Pipe()
	c.Attach(sourceEnd)
	c.Attach(unusedEnd)
	c.Attach(targetEnd)

	boot := string(wire.Up{Boot: 1}.Append(nil)) + beat(1) + beat(2)[:5]
	write(t, source, boot)
	if err := unused.Close(); err != nil { // a target that never ran the guest
		t.Fatal(err)
	}
	// The target speaks before the source has ended: its bytes wait for their turn.
	write(t, target, beat(3)+beat(4))
	r, err := c.Await(ctx, "the first beat", func(r beats.Report) bool { return r.Beats == 1 })
	if err != nil || r.Pending != 5 {
		t.Fatalf("%+v, %v", r, err)
	}
	write(t, source, beat(2)[5:])
	if err := source.Close(); err != nil {
		t.Fatal(err)
	}
	r, err = c.Await(ctx, "four beats", func(r beats.Report) bool { return r.Beats == 4 })
	if err != nil || r.Check() != nil {
		t.Fatalf("%v, %v", r.Check(), err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if want := boot + beat(2)[5:] + beat(3) + beat(4); raw.String() != want {
		t.Errorf("joined bytes:\n got %q\nwant %q", raw.String(), want)
	}
	if _, err := target.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after Close the end still takes bytes: %v", err)
	}
	if err := c.Send("verify"); err == nil {
		t.Error("a command was sent to nobody")
	}
	if _, err := c.Await(ctx, "more", func(beats.Report) bool { return false }); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("waiting for what cannot come: %v", err)
	}
}

func TestConsoleVerify(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c := guest.NewConsole(nil)
	far, near := net.Pipe()
	c.Attach(near)
	answered := make(chan error, 1)
	go func() {
		buf := make([]byte, 100)
		n, err := far.Read(buf)
		if err == nil {
			tag := strings.TrimSpace(strings.TrimPrefix(string(buf[:n]), "verify "))
			_, err = far.Write(append(wire.Mem{OK: true, Tag: "p"}.Append(nil), wire.Mem{Bad: 3, Tag: tag}.Append(nil)...))
		}
		answered <- err
	}()
	m, err := c.Verify(ctx)
	if err != nil || m.OK || m.Bad != 3 {
		t.Errorf("Verify = %+v, %v: want the answer to the question", m, err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	late, stop := context.WithTimeout(ctx, time.Millisecond)
	defer stop()
	if err := c.AwaitBeats(late, 1); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 beats") {
		t.Errorf("waiting too long: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

package cmdline_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/internal/proc"
	"qlive/internal/qemu"
	"qlive/internal/qemu/cmdline"
	"qlive/internal/qmp"
)

// lines are the command lines of package cmdline's own tests.
const lines = "../../internal/qemu/cmdline/testdata/accepted"

func locate(t *testing.T) env.Env {
	t.Helper()
	e, err := env.Locate()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func binary(t *testing.T, e env.Env, version string) *qemu.Binary {
	t.Helper()
	b, err := qemu.Admit(e.QEMU(version), nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func probe(t *testing.T, b *qemu.Binary) *qemu.Info {
	t.Helper()
	info, err := qemu.NewProber(nil).Probe(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// TestAccepted starts every line of the golden files on each version, and its successor beside it.
func TestAccepted(t *testing.T) {
	e := locate(t)
	oldest := probe(t, binary(t, e, env.Installed))
	paths, err := filepath.Glob(lines + "/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no command lines in %s: %v", lines, err)
	}
	for _, version := range []string{env.Installed, env.Backport, env.Newest} {
		b := binary(t, e, version)
		info := probe(t, b)
		for _, path := range paths {
			t.Run(version+"/"+strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
				dir := tempDir(t, e)
				args := readLine(t, path, dir)
				facts, err := qemu.Learn(args, dir, oldest)
				if err != nil {
					t.Fatal(err)
				}
				sideBySide(t, b, info, args, facts, dir)
			})
		}
	}
}

// TestBlockNames compares the names of blocks in machine types before and after 4.1, where they changed.
func TestBlockNames(t *testing.T) {
	e := locate(t)
	for _, version := range []string{env.Installed, env.Backport} {
		b := binary(t, e, version)
		info := probe(t, b)
		for _, machine := range []string{"pc-q35-4.0", "pc-q35-4.0.1", "pc-q35-4.1", "pc-i440fx-3.1"} {
			for name, objects := range map[string][]string{
				"plain": nil,
				"ram":   {"-object", "memory-backend-ram,id=m,size=128M"},
				"memfd": {"-object", "memory-backend-memfd,id=m,size=128M"},
				"file":  {"-object", "memory-backend-file,id=m,size=128M,mem-path=/dev/shm"},
				"on":    {"-object", "memory-backend-ram,id=m,size=128M,x-use-canonical-path-for-ramblock-id=on"},
				"off":   {"-object", "memory-backend-memfd,id=m,size=128M,x-use-canonical-path-for-ramblock-id=off"},
			} {
				t.Run(version+"/"+machine+"/"+name, func(t *testing.T) {
					dir := tempDir(t, e)
					args := []string{"-machine", machine + ",accel=tcg", "-m", "128", "-display", "none", "-nodefaults"}
					if objects != nil {
						args = append(append(args, "-numa", "node,memdev=m"), objects...)
					}
					facts, err := qemu.Learn(args, dir, info)
					if err != nil {
						t.Fatal(err)
					}
					want := withoutQlive(t, e, b, args)
					got := sideBySide(t, b, info, args, facts, dir)
					if !slices.Equal(want, got) {
						t.Errorf("qlive's RAM blocks are %q, QEMU's own %q", got, want)
					}
				})
			}
		}
	}
}

// sideBySide runs both generations of a line and gives the names of the RAM blocks that are qlive's.
func sideBySide(t *testing.T, b *qemu.Binary, info *qemu.Info, args []string, facts cmdline.Facts, dir string) []string {
	t.Helper()
	var files []*os.File
	var all [][]qmp.RAMBlock
	var names []string
	for generation := range 2 {
		place := cmdline.Placement{Dir: filepath.Join(dir, strconv.Itoa(generation)), Incoming: generation > 0, Version: info.Version}
		line, err := cmdline.Rewrite(args, facts, place)
		if err != nil {
			t.Fatal(err)
		}
		if generation == 0 {
			files = makeRAM(t, line.Regions)
		}
		if err := qemu.MakePlaces(place.Dir, line, nil); err != nil {
			t.Fatal(err)
		}
		p := run(t, b, line.Argv(), files, dir, filepath.Join(place.Dir, "qemu.log"))
		m := dial(t, p, line.Monitor)
		checkState(t, m, generation)
		blocks, err := m.QueryRAMBlocks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		checkRAM(t, p, line.Regions, files, blocks)
		checkNames(t, p, line)
		all = append(all, blocks)
		names = nil
		for _, r := range line.Regions {
			names = append(names, r.Block)
		}
	}
	if a, b := describe(all[0]), describe(all[1]); !slices.Equal(a, b) {
		t.Errorf("RAM blocks differ:\nfirst  %q\nsecond %q", a, b)
	}
	return names
}

func describe(blocks []qmp.RAMBlock) []string {
	var s []string
	for _, b := range blocks {
		s = append(s, b.Name+" "+strconv.FormatUint(b.Total, 10))
	}
	slices.Sort(s)
	return s
}

// withoutQlive asks QEMU itself how it names the big blocks of a line.
func withoutQlive(t *testing.T, e env.Env, b *qemu.Binary, args []string) []string {
	t.Helper()
	dir := tempDir(t, e)
	socket := filepath.Join(dir, "qmp")
	p := run(t, b, append(slices.Clone(args), "-S", "-qmp", "unix:"+socket+",server=on,wait=off"), nil, dir, filepath.Join(dir, "log"))
	blocks, err := dial(t, p, socket).QueryRAMBlocks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, b := range blocks {
		if b.Total >= 128<<20 {
			names = append(names, b.Name)
		}
	}
	end(t, p)
	return names
}

// tempDir is a folder with two disks, firmware variables and a kernel, short enough for sockets, which t.TempDir is not.
func tempDir(t *testing.T, e env.Env) string {
	t.Helper()
	vars, err := os.ReadFile(e.OVMFVars)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "qlive")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for name, content := range map[string][]byte{"disk.img": make([]byte, 1<<20), "disk2.img": make([]byte, 1<<20), "vars.fd": vars, "kernel,v1": smallKernel()} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func readLine(t *testing.T, path, dir string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(strings.ReplaceAll(string(b), "{tmp}", dir), "\n"), "\n")
}

// makeRAM makes what the regions ask for, as qlive does it.
func makeRAM(t *testing.T, regions []cmdline.Region) []*os.File {
	t.Helper()
	var files []*os.File
	for i, r := range regions {
		if r.FD != 3+i {
			t.Fatalf("region %d has the descriptor %d", i, r.FD)
		}
		fd, err := unix.MemfdCreate(r.ID, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), r.ID)
		t.Cleanup(func() { f.Close() })
		if err := f.Truncate(int64(r.SizeBytes)); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	return files
}

func run(t *testing.T, b *qemu.Binary, args []string, files []*os.File, dir, log string) *qemu.Process {
	t.Helper()
	p, err := qemu.Start(qemu.Command{Binary: b, Args: args, Dir: dir, Files: files, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, p) })
	return p
}

func end(t *testing.T, p *qemu.Process) {
	t.Helper()
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	<-p.Done()
	if err := p.Release(); err != nil {
		t.Error(err)
	}
}

func dial(t *testing.T, p *qemu.Process, path string) *qmp.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	m, err := qmp.Dial(ctx, path, qmp.Options{Exited: p.Done()})
	if err != nil {
		t.Fatalf("%v; QEMU says %q", err, p.Tail(qemu.Words))
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func checkState(t *testing.T, m *qmp.Client, generation int) {
	t.Helper()
	status, err := m.QueryStatus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := []qmp.RunState{"prelaunch", "inmigrate"}[generation]; status.Status != want {
		t.Errorf("run state is %s, want %s", status.Status, want)
	}
	migration, err := m.QueryMigrate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(migration.BlockedReasons) > 0 {
		t.Errorf("migration is blocked: %q", migration.BlockedReasons)
	}
}

// checkRAM sees from both sides that the QEMU maps the very files, shared, and calls them as the line says.
func checkRAM(t *testing.T, p *qemu.Process, regions []cmdline.Region, files []*os.File, blocks []qmp.RAMBlock) {
	t.Helper()
	maps, err := proc.ReadMaps(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range regions {
		if !slices.ContainsFunc(blocks, func(b qmp.RAMBlock) bool { return b.Name == r.Block && b.Total == r.SizeBytes }) {
			t.Errorf("QEMU has no block %s of %d bytes, but %q", r.Block, r.SizeBytes, describe(blocks))
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(files[i].Fd()), &st); err != nil {
			t.Fatal(err)
		}
		var mapped uint64
		for _, m := range maps {
			if m.Inode == st.Ino && unix.Mkdev(m.DevMajor, m.DevMinor) == st.Dev && m.Shared && m.Read && m.Write {
				mapped += m.Len()
			}
		}
		if mapped != r.SizeBytes {
			t.Errorf("QEMU maps %d bytes of the region %s, want %d", mapped, r.ID, r.SizeBytes)
		}
	}
}

// checkNames sees that what QEMU has made lies in its generation's folder and nowhere else.
func checkNames(t *testing.T, p *qemu.Process, line *cmdline.Line) {
	t.Helper()
	for _, n := range line.Names {
		info, err := os.Lstat(n.Path)
		if err != nil {
			t.Errorf("%s: %v", n.Public, err)
			continue
		}
		if isSocket := info.Mode()&os.ModeSocket != 0; isSocket != (n.Kind == cmdline.NameSocket) {
			t.Errorf("%s is %v", n.Path, info.Mode())
		}
		if _, err := os.Lstat(n.Public); err == nil {
			t.Errorf("QEMU has made %s", n.Public)
		}
		if n.Kind != cmdline.NamePidfile {
			continue
		}
		text, err := os.ReadFile(n.Path)
		if pid := strings.TrimSpace(string(text)); err != nil || pid != strconv.Itoa(p.PID()) {
			t.Errorf("the pidfile holds %q, want %d; %v", pid, p.PID(), err)
		}
	}
	for _, c := range line.Consoles {
		for _, path := range []string{c.Input, c.Log} {
			if _, err := os.Lstat(path); err != nil {
				t.Error(err)
			}
		}
	}
}

package cmdline_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// field gives a command line of the field and what is in the file of its -readconfig, if there is one.
func field(t *testing.T, name string, args []string) map[string]string {
	t.Helper()
	text, err := os.ReadFile("testdata/field/" + name + ".conf")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	configs := map[string]string{}
	for _, path := range cmdline.Configs(args) {
		configs[path] = string(text)
	}
	return configs
}

// fieldMachines are those of the other tests and newer ones, as QEMU 10.0 lists them.
func fieldMachines() []cmdline.Machine {
	return append(machines(), cmdline.Machine{Name: "pc-q35-10.0", RAMID: "pc.ram"})
}

// TestField rewrites the lines that managers of guests write, or says what is in their way. testdata/field/README.md tells where they come from.
func TestField(t *testing.T) {
	for name, args := range cases(t, "field") {
		t.Run(name, func(t *testing.T) {
			configs := field(t, name, args)
			var text [2]string
			for i, place := range []cmdline.Placement{first(), second()} {
				line, err := rewriteField(t, args, configs, place)
				if err != nil {
					checkRefusal(t, err)
					golden(t, "testdata/field/"+name+".golden", problem(err)+adopted(t, args, configs))
					return
				}
				text[i] = strings.ReplaceAll(render(line), place.Dir, "{dir}")
			}
			golden(t, "testdata/field/"+name+".golden", text[0]+"\nthe next generation has besides:\n"+besides(text[0], text[1]))
		})
	}
}

// adopted is what a QEMU gets that takes a guest over from one that somebody has started with a line that qlive cannot start: nothing, or what it has
// of the descriptors of that one. The sockets among these are as libvirt makes them.
func adopted(t *testing.T, args []string, configs map[string]string) string {
	t.Helper()
	sockets := map[string]string{}
	for _, arg := range args {
		if id, fd, ok := strings.Cut(strings.TrimSuffix(arg, ",server=on,wait=off"), ",fd="); ok && strings.HasPrefix(arg, "socket,id=") {
			sockets[fd] = "/run/libvirt/" + strings.TrimPrefix(id, "socket,id=")
		}
	}
	line, err := rewriteLine(t, args, configs, sockets, second())
	if err != nil {
		checkRefusal(t, err)
		return "adopted from whoever has started it:\n" + problem(err)
	}
	held, err := cmdline.Holdings(args, sockets)
	if err != nil {
		t.Fatal(err)
	}
	text := "adopted from whoever has started it it is\n" + strings.ReplaceAll(render(line), second().Dir, "{dir}") + "\nand gets:\n"
	for _, h := range held {
		text += fmt.Sprintf("  %d of the kind %s, %q, %v of its starter; a script at its end: %v\n", h.Count, h.Kind, h.Name, h.FDs, h.Script)
	}
	return text
}

func rewriteField(t *testing.T, args []string, configs map[string]string, place cmdline.Placement) (*cmdline.Line, error) {
	t.Helper()
	return rewriteLine(t, args, configs, nil, place)
}

func rewriteLine(t *testing.T, args []string, configs, listeners map[string]string, place cmdline.Placement) (*cmdline.Line, error) {
	t.Helper()
	all, err := cmdline.Inline(args, configs)
	if err != nil {
		return nil, err
	}
	m, err := cmdline.ResolveMachine(all, fieldMachines())
	if err != nil {
		return nil, err
	}
	return cmdline.Rewrite(args, cmdline.Facts{Machine: m, Listeners: listeners, GUID: "f0e1d2c3-b4a5-4687-9a0b-1c2d3e4f5061", Configs: configs,
		Paths: map[string]cmdline.PathInfo{"/dev/hugepages": {Exists: true, Dir: true, Memory: true, PageBytes: 2 << 20}}}, place)
}

// checkRefusal sees that what is refused is refused for what it is, with something to do.
func checkRefusal(t *testing.T, err error) {
	t.Helper()
	p := vmstate.ProblemOf(err)
	if k := p.Kind(); k != vmstate.Unsupported {
		t.Errorf("kind is %s: %v", k, err)
	}
	if !strings.HasPrefix(p.Detail, "cannot use ") || p.Remedy == "" {
		t.Errorf("no argument or no remedy: %+v", p)
	}
}

// A file of options that cannot be understood is refused by the line in it; what is in one is judged like the command line itself.
func TestReadConfigRefused(t *testing.T) {
	for text, want := range map[string]string{
		"[drive]\nfile /x\n":              "line 2 of the file is neither",
		"file = \"x\"\n":                  "line 1 of the file is neither",
		"\n# a comment\n[flux \"a\"]\n":   "in line 3 qlive does not know the group flux",
		"[device]\n driver=\"vfio-pci\"":  "a device of the host belongs to one process alone",
		"[machine]\ntype = \"xenfv-4.2\"": "cannot hand over a machine of the type",
	} {
		t.Run(text, func(t *testing.T) {
			_, err := rewriteField(t, []string{"-readconfig", "/etc/vm.cfg"}, map[string]string{"/etc/vm.cfg": text}, first())
			if err == nil || !strings.Contains(vmstate.ProblemOf(err).Detail, want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
}

// What stands in a file of options leads to the same RAM, names and consoles as the command line with the same in it.
func TestReadConfigAsArguments(t *testing.T) {
	for name, args := range cases(t, "field") {
		configs := field(t, name, args)
		if configs == nil {
			continue
		}
		inlined, err := cmdline.Inline(args, configs)
		if err != nil {
			t.Fatal(err)
		}
		byFile, errFile := rewriteField(t, args, configs, first())
		byArgs, errArgs := rewriteField(t, inlined, nil, first())
		switch {
		case errFile != nil || errArgs != nil:
			if errFile == nil || errArgs == nil || errFile.Error() != errArgs.Error() {
				t.Errorf("%s: by file %v, by arguments %v", name, errFile, errArgs)
			}
		case !slices.Equal(byFile.Argv(), byArgs.Argv()):
			t.Errorf("%s: by file\n%q\nby arguments\n%q", name, byFile.Argv(), byArgs.Argv())
		}
	}
}

// Without what is in the file a line is refused, not run without it.
func TestReadConfigUnknown(t *testing.T) {
	_, err := rewriteField(t, []string{"-readconfig", "/etc/vm.cfg"}, nil, first())
	if p := vmstate.ProblemOf(err); err == nil || p.Kind() != vmstate.Unsupported || p.Remedy == "" {
		t.Errorf("got %v", err)
	}
}

// The secret that libvirt gives every QEMU goes only where nothing needs it.
func TestMasterKey(t *testing.T) {
	secret := []string{"-object", `{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/nowhere"}`}
	needed := append(slices.Clone(secret), "-object", "secret,id=disk0,keyid=masterKey0,iv=AAAA,data=BBBB")
	for name, tt := range map[string]struct {
		args []string
		kept bool
	}{"unused": {secret, false}, "used": {needed, true}} {
		line, err := rewriteField(t, tt.args, nil, first())
		if err != nil {
			t.Fatal(err)
		}
		if kept := slices.Contains(line.Argv(), secret[1]); kept != tt.kept {
			t.Errorf("%s: kept is %v", name, kept)
		}
	}
}

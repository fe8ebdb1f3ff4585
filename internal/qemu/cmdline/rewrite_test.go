package cmdline_test

import (
	"slices"
	"strings"
	"testing"

	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

func rewrite(t *testing.T, place cmdline.Placement, words string) *cmdline.Line {
	t.Helper()
	args := strings.Fields(words)
	line, err := cmdline.Rewrite(args, facts(t, args), place)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func TestRegions(t *testing.T) {
	const huge = 2 << 20
	tests := map[string]struct {
		words string
		want  []cmdline.Region
	}{
		"nothing said": {"", []cmdline.Region{{ID: "pc.ram", Block: "pc.ram", SizeBytes: 128 << 20, FD: 3}}},
		"the last size, of all options": {"-m 1G -m slots=2,maxmem=4G",
			[]cmdline.Region{{ID: "pc.ram", Block: "pc.ram", SizeBytes: 1 << 30, FD: 3}}},
		"rounded as QEMU does": {"-m 1000001b", []cmdline.Region{{ID: "pc.ram", Block: "pc.ram", SizeBytes: 1007616, FD: 3}}},
		"huge by -mem-path": {"-m 1G -mem-path /dev/hugepages -mem-prealloc",
			[]cmdline.Region{{ID: "pc.ram", Block: "pc.ram", SizeBytes: 1 << 30, FD: 3, PageBytes: huge, Huge: true, Prealloc: true}}},
		"huge by a file that is not there yet": {"-object memory-backend-file,id=a,size=1G,mem-path=/dev/hugepages/x -numa node,memdev=a",
			[]cmdline.Region{{ID: "a", Block: "a", SizeBytes: 1 << 30, FD: 3, PageBytes: huge, Huge: true}}},
		"huge by memfd, size unsaid": {"-object memory-backend-memfd,id=a,size=1G,hugetlb=on -numa node,memdev=a",
			[]cmdline.Region{{ID: "a", Block: "a", SizeBytes: 1 << 30, FD: 3, Huge: true}}},
		"huge by memfd": {"-object memory-backend-memfd,id=a,size=1G,hugetlb=on,hugetlbsize=1G,prealloc=on -numa node,memdev=a",
			[]cmdline.Region{{ID: "a", Block: "a", SizeBytes: 1 << 30, FD: 3, PageBytes: 1 << 30, Huge: true, Prealloc: true}}},
		"a DIMM comes after what -m makes": {"-object memory-backend-ram,id=d,size=1G -m 512,slots=1,maxmem=2G -device pc-dimm,memdev=d",
			[]cmdline.Region{{ID: "pc.ram", Block: "pc.ram", SizeBytes: 512 << 20, FD: 3}, {ID: "d", Block: "d", SizeBytes: 1 << 30, FD: 4}}},
		"old names, plain":       {"-M pc-i440fx-3.1", []cmdline.Region{{ID: "pc.ram", Block: "pc.ram", SizeBytes: 128 << 20, FD: 3}}},
		"old names, ram":         {"-M pc-i440fx-3.1 -object memory-backend-ram,id=a,size=1G -numa node,memdev=a", []cmdline.Region{{ID: "a", Block: "a", SizeBytes: 1 << 30, FD: 3}}},
		"old names, file":        {"-M pc-i440fx-3.1 -object memory-backend-file,id=a,size=1G,mem-path=/dev/shm -numa node,memdev=a", []cmdline.Region{{ID: "a", Block: "/objects/a", SizeBytes: 1 << 30, FD: 3}}},
		"new names, file":        {"-M pc-q35-4.0 -object memory-backend-file,id=a,size=1G,mem-path=/dev/shm -numa node,memdev=a", []cmdline.Region{{ID: "a", Block: "a", SizeBytes: 1 << 30, FD: 3}}},
		"new machine, old names": {"-object memory-backend-ram,id=a,size=1G,x-use-canonical-path-for-ramblock-id=on -numa node,memdev=a", []cmdline.Region{{ID: "a", Block: "/objects/a", SizeBytes: 1 << 30, FD: 3}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := rewrite(t, first(), tt.words).Regions; !slices.Equal(got, tt.want) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
		})
	}
}

// TestLater shows what only the QEMU that takes a guest over does not get.
func TestLater(t *testing.T) {
	const words = "-loadvm snap -object memory-backend-ram,id=a,size=1G,host-nodes=0,policy=bind -numa node,memdev=a"
	for _, tt := range []struct {
		place cmdline.Placement
		want  bool
	}{{first(), true}, {second(), false}} {
		argv := strings.Join(rewrite(t, tt.place, words).Argv(), " ")
		for _, word := range []string{"-loadvm snap", "host-nodes=0", "policy=bind"} {
			if strings.Contains(argv, word) != tt.want {
				t.Errorf("incoming %v: %q in %q, want %v", tt.place.Incoming, word, argv, tt.want)
			}
		}
	}
}

// A target that is given its memory waits for that in its own folder, beside its guest.
func TestGiven(t *testing.T) {
	const dir, path = `/run/q"live/vm1/1`, `/run/q"live/vm1/1/own/cpr.sock`
	line := rewrite(t, cmdline.Placement{Dir: dir, Incoming: true, Given: true}, "-m 1G")
	want := `-incoming defer -incoming {"channel-type":"cpr","addr":{"transport":"socket","type":"unix","path":"/run/q\"live/vm1/1/own/cpr.sock"}}`
	if argv := strings.Join(line.Argv(), " "); !strings.HasSuffix(argv, want) {
		t.Errorf("%q does not end in %q", argv, want)
	}
	if line.Offer != path || cmdline.OfferBelow(dir) != path {
		t.Errorf("it waits at %q, and is looked for at %q", line.Offer, cmdline.OfferBelow(dir))
	}
	if line := rewrite(t, second(), "-m 1G"); line.Offer != "" || strings.Contains(strings.Join(line.Argv(), " "), "cpr") {
		t.Errorf("a target that is not given its memory waits for it: %+v", line)
	}
}

// A QEMU that can promises itself no huge page where that is for others to do.
func TestPromised(t *testing.T) {
	place := second()
	for _, tt := range []struct {
		name, words string
		promised    bool
		major       int
		want        bool
	}{
		{"plain", "-m 1G", true, 10, true},
		{"of a backend", "-m 1G -object memory-backend-ram,id=a,size=1G,reserve=on -numa node,memdev=a", true, 10, true},
		{"by QEMU", "-m 1G", false, 10, false},
		{"by an old QEMU", "-m 1G", true, 6, false},
	} {
		place.Promised, place.Version = tt.promised, cmdline.Version{Major: tt.major}
		argv := strings.Join(rewrite(t, place, tt.words).Argv(), " ")
		if strings.Contains(argv, ",share=on,align=2097152,reserve=off") != tt.want || strings.Contains(argv, "reserve") != tt.want {
			t.Errorf("%s: %q", tt.name, argv)
		}
	}
}

func TestVirtioMem(t *testing.T) {
	args := strings.Fields("-m 1G,maxmem=2G -object memory-backend-ram,id=a,size=1G -device virtio-mem-pci,memdev=a")
	for _, tt := range []struct {
		name    string
		place   cmdline.Placement
		refused bool
	}{
		{"starts on 7.2", first(), false},
		{"goes to 10.0", second(), false},
		{"goes to 8.0", cmdline.Placement{Dir: "/d", Incoming: true, Version: cmdline.Version{Major: 8}}, true},
		{"goes to 8.1", cmdline.Placement{Dir: "/d", Incoming: true, Version: cmdline.Version{Major: 8, Minor: 1}}, false},
	} {
		_, err := cmdline.Rewrite(args, facts(t, args), tt.place)
		if (err != nil) != tt.refused || err != nil && vmstate.KindOf(err) != vmstate.Incompatible {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestWhoIsTheConsole(t *testing.T) {
	for words, want := range map[string]string{
		"":                                "console=qlive-console",
		"-nodefaults":                     "",
		"-nographic -nodefaults":          "",
		"-nographic":                      "console=qlive-console",
		"-serial none":                    "",
		"-serial null":                    "",
		"-serial vc":                      "",
		"-serial stdio -serial pty":       "console=qlive-console console2=qlive-console2",
		"-debugcon stdio":                 "console=qlive-console debugcon=debugcon",
		"-debugcon stdio -nodefaults":     "debugcon=debugcon",
		"-parallel pty -serial mon:stdio": "console=qlive-console parallel=qlive-parallel",
		"-device isa-serial,chardev=c -chardev stdio,id=c":                   "console=c",
		"-chardev stdio,id=c -mon c":                                         "console=qlive-console",
		"-chardev stdio,id=c,mux=on -mon c -serial chardev:c":                "console=c",
		"-chardev stdio,id=c -object monitor-hmp,id=m,chardev=c -nodefaults": "",
	} {
		var got []string
		for _, c := range rewrite(t, first(), words).Consoles {
			name := strings.TrimSuffix(strings.TrimPrefix(c.Input, first().Dir+"/"), ".in")
			if c.Log != first().Dir+"/"+name+".out" {
				t.Errorf("%q: log is %s", words, c.Log)
			}
			got = append(got, name+"="+c.ID)
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%q: consoles are %q, want %q", words, s, want)
		}
	}
}

func TestResolveMachine(t *testing.T) {
	for words, want := range map[string]string{
		"":                              "pc-i440fx-7.2",
		"-M q35":                        "pc-q35-7.2",
		"-machine accel=tcg":            "pc-i440fx-7.2",
		"-machine type=q35,accel=tcg":   "pc-q35-7.2",
		"-M pc -machine q35":            "pc-q35-7.2",
		"-machine q35 --machine usb=on": "pc-q35-7.2",
		"--machine microvm":             "microvm",
	} {
		m, err := cmdline.ResolveMachine(strings.Fields(words), machines())
		if err != nil || m.Name != want {
			t.Errorf("%q: %q, want %q; %v", words, m.Name, want, err)
		}
	}
	if _, err := cmdline.ResolveMachine([]string{"-M", "pc-q35-99.0"}, machines()); vmstate.KindOf(err) != vmstate.Unsupported {
		t.Errorf("an unknown machine: %v", err)
	}
	if _, err := cmdline.ResolveMachine(nil, nil); vmstate.KindOf(err) != vmstate.Invalid {
		t.Errorf("no default: %v", err)
	}
}

func TestPlaces(t *testing.T) {
	f := facts(t, nil)
	for name, place := range map[string]cmdline.Placement{
		"relative": {Dir: "run"}, "empty": {}, "zero byte": {Dir: "/a\x00b"}, "too long": {Dir: "/" + strings.Repeat("x", 100)},
	} {
		if line, err := cmdline.Rewrite(nil, f, place); err == nil {
			t.Errorf("%s: accepted as %q", name, line.Argv())
		}
	}
	line, err := cmdline.Rewrite([]string{"-vnc", "unix:a,,b"}, f, cmdline.Placement{Dir: "/run/a,b=c", FirstFD: 7, ProcessName: "a,b"})
	if err != nil {
		t.Fatal(err)
	}
	argv := strings.Join(line.Argv(), " ")
	for _, want := range []string{"-name process=a,,b -vnc", "unix:/run/a,,b=c/own/u0-a_b", "path=/run/a,,b=c/own/qmp.sock", "/proc/self/fd/7"} {
		if !strings.Contains(argv, want) {
			t.Errorf("%q is not in %q", want, argv)
		}
	}
	if line.Monitor != "/run/a,b=c/own/qmp.sock" || line.Names[0].Public != "a,b" || line.Regions[0].FD != 7 {
		t.Errorf("%+v", line)
	}
}

func TestPaths(t *testing.T) {
	args := strings.Fields("-mem-path /a -object memory-backend-file,id=x,mem-path=/b,,c -object rng-random,filename=/d -object memory-backend-ram,id=y -mem-path /a")
	if got := cmdline.Paths(args); !slices.Equal(got, []string{"/a", "/b,c"}) {
		t.Errorf("%q", got)
	}
}

func TestUnknownOptions(t *testing.T) {
	line := rewrite(t, first(), "-novelty value -another --third x -m 1G")
	if got := strings.Join(line.Argv()[:6], " "); got != "-novelty value -another --third x -m" {
		t.Errorf("%q", got)
	}
	if len(line.Warnings) != 3 || line.Regions[0].SizeBytes != 1<<30 {
		t.Errorf("%q, %+v", line.Warnings, line.Regions)
	}
}

func TestNamesDoNotCollide(t *testing.T) {
	line := rewrite(t, first(), "-qmp unix:/a/qmp.sock,server=on,wait=off -vnc unix:/b/qmp.sock -pidfile console.log -D /x/"+strings.Repeat("long", 30))
	seen := map[string]bool{line.Monitor: true}
	for _, c := range line.Consoles {
		seen[c.Input], seen[c.Log] = true, true
	}
	for _, n := range line.Names {
		if seen[n.Path] || !strings.HasPrefix(n.Path, first().Dir+"/") || len(n.Path) > 60 {
			t.Errorf("%+v", n)
		}
		seen[n.Path] = true
	}
	if len(line.Names) != 4 {
		t.Errorf("%+v", line.Names)
	}
}

// Later QEMUs make the file themselves, and refuse a second one of that name.
func TestBootKernel(t *testing.T) {
	const file = "name=etc/boot/kernel,file=/srv/vm/kernel,,v1"
	unknown := first()
	unknown.Version = cmdline.Version{}
	for name, tt := range map[string]struct {
		words string
		place cmdline.Placement
		want  bool
	}{
		"Linux":                 {"-kernel /srv/vm/kernel,v1", first(), true},
		"the last of two":       {"-machine q35,kernel=/srv/template -kernel /srv/vm/kernel,v1", first(), true},
		"machine's":             {"-kernel /srv/template -M pc,kernel=/srv/vm/kernel,,v1", first(), true},
		"JSON":                  {`-M {"type":"pc","kernel":"/srv/vm/kernel,v1"}`, first(), true},
		"later QEMU":            {"-kernel /srv/vm/kernel,v1", second(), false},
		"unknown QEMU":          {"-kernel /srv/vm/kernel,v1", unknown, false},
		"not Linux":             {"-kernel /srv/template", first(), false},
		"nobody has looked":     {"-kernel /srv/vm/other", first(), false},
		"no kernel":             {"-machine q35", first(), false},
		"the user's own":        {"-kernel /srv/vm/kernel,v1 -fw_cfg etc/boot/kernel,file=/srv/x", first(), false},
		"another of the user's": {"-kernel /srv/vm/kernel,v1 -fw_cfg opt/x,string=y", first(), true},
	} {
		t.Run(name, func(t *testing.T) {
			if argv := rewrite(t, tt.place, tt.words).Argv(); slices.Contains(argv, file) != tt.want {
				t.Errorf("in %q", argv)
			}
		})
	}
}

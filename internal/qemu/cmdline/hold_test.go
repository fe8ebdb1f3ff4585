package cmdline_test

import (
	"slices"
	"testing"

	"qlive/internal/qemu/cmdline"
)

// A QEMU whose user may not open /dev/vhost-net is given it for each queue, behind the descriptors of the tap.
func TestVhost(t *testing.T) {
	place := second()
	place.Vhost = true
	for arg, want := range map[string]string{
		"tap,id=n,ifname=t,vhost=on":              "tap,id=n,vhost=on,fd=4,vhostfd=5",
		"tap,id=n,fds=8:9,vhost=on,vhostfds=6:7":  "tap,id=n,vhost=on,fds=4:5,vhostfds=6:7",
		"tap,id=n,ifname=t,queues=2,vhost=on":     "tap,id=n,vhost=on,fds=4:5,vhostfds=6:7",
		"tap,id=n,ifname=t,vhost=off,script=/x,a": "tap,id=n,vhost=off,a,fd=4",
	} {
		args := []string{"-m", "1G", "-netdev", arg}
		line, err := cmdline.Rewrite(args, facts(t, args), place)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(line.Argv(), want) {
			t.Errorf("%s becomes %q", arg, line.Argv())
		}
		held, err := cmdline.Holdings(line.Argv(), nil)
		if err != nil || len(held) != 1 || held[0].Script {
			t.Errorf("it holds %+v, %v", held, err)
		}
	}
}

// Whether QEMU runs a script as it ends.
func TestScript(t *testing.T) {
	for arg, want := range map[string]bool{
		"tap,id=n": true, "tap,id=n,ifname=t,script=no": true, "tap,id=n,downscript=/x": true, `{"type":"tap","id":"n","downscript":"/x"}`: true,
		"tap,id=n,downscript=no": false, "tap,id=n,fd=3": false, "tap,id=n,br=b": false, "tap,id=n,helper=/h": false, "bridge,id=n": false,
	} {
		held, err := cmdline.Holdings([]string{"-netdev", arg}, nil)
		if err != nil || len(held) != 1 || held[0].Script != want {
			t.Errorf("%s: %+v, %v", arg, held, err)
		}
	}
}

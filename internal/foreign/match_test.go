package foreign

import (
	"reflect"
	"strings"
	"testing"

	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

func TestMatch(t *testing.T) {
	held := []vmstate.HeldDescriptor{
		{FD: 8, Kind: vmstate.HeldListening, Name: "0.0.0.0:4444"}, {FD: 9, Kind: vmstate.HeldListening, Name: "[::]:4444"},
		{FD: 10, Kind: vmstate.HeldListening, Name: "127.0.0.1:4445"}, {FD: 11, Kind: vmstate.HeldTap, Name: "t0"},
		{FD: 12, Kind: vmstate.HeldTap, Name: "t1"}, {FD: 13, Kind: vmstate.HeldTap, Name: "t1"}, {FD: 14, Kind: vmstate.HeldTap, Name: "tap7"},
		{FD: 15, Kind: vmstate.HeldTap, Name: "tap8"}, {FD: 16, Kind: vmstate.HeldImage, Name: "/disk"}, {FD: 17, Kind: vmstate.HeldListening, Name: "[::1]:4446"},
		{FD: 18, Kind: vmstate.HeldListening, Name: "/run/s"},
	}
	for _, tt := range []struct {
		name, line string
		want       [][]int
		says       string
	}{
		{"nothing", "-m 1G -chardev socket,id=c,path=/run/s,server=on -netdev user,id=n", [][]int{}, ""},
		{"by name, with queues", "-netdev tap,id=b,ifname=t1,queues=2 -nic tap,ifname=t0", [][]int{{12, 13}, {11}}, ""},
		{"by number, in the line's order", `-netdev {"type":"tap","fds":"13:12","id":"n"} -netdev tap,id=m,fd=11`, [][]int{{13, 12}, {11}}, ""},
		{"by what is left", "-netdev tap,id=x -netdev tap,id=b,ifname=t1,queues=2 -netdev bridge,id=y,br=br0 -netdev tap,id=a,ifname=t0", [][]int{{14}, {12, 13}, {15}, {11}}, ""},
		{"unnamed ones of two options", "-netdev tap,id=a,ifname=t0 -netdev tap,id=x -nic tap", nil, "names no"},
		{"not there", "-netdev tap,id=n,ifname=gone", nil, "interface gone"},
		{"not as many queues", "-netdev tap,id=n,ifname=t1,queues=3", nil, "2 of 3"},
		{"the same twice", "-netdev tap,id=n,ifname=t0 -netdev tap,id=m,ifname=t0", nil, "0 of 1"},
		{"ports", "-monitor telnet::4444,server,nowait -serial tcp:127.0.0.1:4445,server -chardev socket,id=c,host=::1,port=4446,server=on", [][]int{{8}, {10}, {17}}, ""},
		{"a port by name", "-qmp tcp:localhost:4445,server=on", [][]int{{10}}, ""},
		{"another address", "-qmp tcp:192.0.2.1:4445,server=on", nil, "192.0.2.1:4445"},
		{"a port by number", "-chardev socket,id=c,fd=10,server=on", [][]int{{10}}, ""},
		{"sets", "-add-fd fd=5,set=2 -add-fd fd=6,set=2", [][]int{{30}, {31}}, ""},
		{"a set that is gone", "-add-fd fd=5,set=3", nil, "set 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			holdings, err := cmdline.Holdings(strings.Split(tt.line, " "), nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Match(holdings, held, map[int64][]int{2: {30, 31}})
			if tt.says == "" && (err != nil || !reflect.DeepEqual(got, tt.want)) {
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
			if tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says) || vmstate.ProblemOf(err).Remedy == "") {
				t.Errorf("got %v, %v, want %q", got, err, tt.says)
			}
		})
	}
}

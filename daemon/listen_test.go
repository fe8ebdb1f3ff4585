package daemon

import (
	"context"
	"net"
	"os"
	"testing"

	"qlive/internal/systemd"
	"qlive/internal/systemd/systemdtest"
	"qlive/restapi/client"
	"qlive/vmstate"
)

func listening(t *testing.T, network, address string) systemd.File {
	t.Helper()
	l, err := net.Listen(network, address)
	must(t, err)
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	f, err := l.(interface{ File() (*os.File, error) }).File()
	must(t, err)
	must(t, l.Close())
	t.Cleanup(func() { f.Close() })
	return systemd.File{File: f}
}

// The daemon answers on the socket that the manager listens on, and leaves it there.
func TestSocketOfTheManager(t *testing.T) {
	for name, fdname := range map[string]string{"by name": socketName, "the only one": "qlive.socket"} {
		t.Run(name, func(t *testing.T) {
			m := systemdtest.New(t, "")
			cfg := testConfig(t)
			socket := listening(t, "unix", cfg.Socket)
			socket.Name = fdname
			more := []systemd.File{socket, {Name: "ram-vm1-pc.ram", File: ram(t, "vm1", "pc.ram").Files()[0]}}
			if fdname == socketName {
				more = append(more, listening(t, "unix", cfg.Socket+".other"))
			}
			d := New(cfg, Options{Version: "test", Systemd: started(t, m, nil, more...)})
			must(t, d.Open(t.Context()))
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- d.Serve(ctx) }()
			c := client.New(cfg.Socket)
			must(t, c.Ready(t.Context())) // even before it serves: the socket is there
			c.Close()
			cancel()
			must(t, <-served)
			must(t, d.Close(t.Context()))
			if _, err := os.Lstat(cfg.Socket); err != nil {
				t.Errorf("the manager's socket: %v", err)
			}
		})
	}
}

func TestSocketsThatCannotBe(t *testing.T) {
	dir := testConfig(t).Socket
	regular := systemd.File{Name: socketName, File: ram(t, "vm1", "pc.ram").Files()[0]}
	tcp := listening(t, "tcp", "127.0.0.1:0")
	tcp.Name = socketName
	for name, c := range map[string]struct {
		files []systemd.File
		says  string
	}{
		"no socket":          {[]systemd.File{regular}, "ListenStream="},
		"no unix socket":     {[]systemd.File{tcp}, "ListenStream="},
		"two without a name": {[]systemd.File{listening(t, "unix", dir+"a"), listening(t, "unix", dir+"b")}, "FileDescriptorName=qlive.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			d := New(testConfig(t), Options{Systemd: started(t, systemdtest.New(t, ""), nil, c.files...)})
			must(t, d.Open(t.Context()))
			refusedAs(t, d.Serve(t.Context()), vmstate.Invalid, c.says)
			must(t, d.Close(t.Context()))
		})
	}
}

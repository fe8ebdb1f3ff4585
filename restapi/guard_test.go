package restapi_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qlive/restapi"
	"qlive/restapi/restapitest"
	"qlive/vmstate"
)

// curl runs as a person would run it.
func (s *server) curl(args ...string) (stdout string, code int) {
	s.t.Helper()
	cmd := exec.Command("curl", append([]string{"-sS", "--unix-socket", s.socket}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := err.(*exec.ExitError); ok {
		return out.String(), exit.ExitCode()
	}
	if err != nil {
		s.t.Fatalf("curl: %v, %s", err, errs.String())
	}
	return out.String(), 0
}

func TestCurl(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	svc.Run(time.Millisecond, restapitest.Full()...)
	s := start(t, svc, restapi.Options{})
	var m vmstate.Migration
	t.Run("plain -d", func(t *testing.T) {
		out, code := s.curl("-d", `{"vm":"vm1","binary":"/opt/qemu-11/bin/qemu-system-x86_64"}`, "http://qlive/migrations")
		if err := json.Unmarshal([]byte(out), &m); err != nil || code != 0 || m.VM != "vm1" {
			t.Fatalf("curl %d: %s", code, out)
		}
	})
	t.Run("wait", func(t *testing.T) {
		out, _ := s.curl("http://qlive/migrations/" + m.ID + "?wait=1m")
		if !strings.Contains(out, `"phase":"completed"`) {
			t.Errorf("%s", out)
		}
	})
	t.Run("no type at all", func(t *testing.T) {
		out, _ := s.curl("-H", "Content-Type:", "-d", `{"vm":"vm1"}`, "http://qlive/v1/migrations?wait=1m", "-w", "%{http_code}")
		if !strings.HasSuffix(out, "200") {
			t.Errorf("%s", out)
		}
	})
	t.Run("json", func(t *testing.T) {
		out, _ := s.curl("--json", `{"vm":"vm1"}`, "http://qlive/migrations?wait=1m", "-w", "%{http_code}")
		if !strings.HasSuffix(out, "200") {
			t.Errorf("%s", out)
		}
	})
	t.Run("-f tells of a migration that was rolled back", func(t *testing.T) {
		svc.Run(time.Millisecond, restapitest.Undone()...)
		if _, code := s.curl("-f", "-d", `{"vm":"vm1"}`, "http://qlive/migrations?wait=1m"); code != 22 {
			t.Errorf("curl -f ends with %d", code)
		}
	})
	t.Run("another content type", func(t *testing.T) {
		out, _ := s.curl("-H", "Content-Type: text/xml", "-d", `<vm/>`, "http://qlive/migrations", "-w", "%{http_code}")
		if !strings.HasSuffix(out, "415") || !strings.Contains(out, "urn:qlive:problem:invalid") {
			t.Errorf("%s", out)
		}
		out, _ = s.curl("-H", "Content-Type: ;", "-d", `{}`, "http://qlive/migrations", "-w", "%{http_code}")
		if !strings.HasSuffix(out, "415") {
			t.Errorf("%s", out)
		}
	})
	t.Run("paths as they are", func(t *testing.T) {
		out, _ := s.curl("--path-as-is", "http://qlive/vms/../vms/vm1", "-w", "%{http_code}")
		if !strings.HasSuffix(out, "404") {
			t.Errorf("%s", out)
		}
		out, _ = s.curl("--path-as-is", "http://qlive/vms/..", "-w", "%{http_code}")
		if !strings.HasSuffix(out, "422") {
			t.Errorf("%s", out)
		}
	})
	t.Run("a huge body", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "huge")
		if err := os.WriteFile(file, bytes.Repeat([]byte("x"), 32<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{}, {"-H", "Expect:"}, {"-H", "Transfer-Encoding: chunked"}, {"-H", "Transfer-Encoding: chunked", "-H", "Expect:"}} {
			out, _ := s.curl(append(args, "--data-binary", "@"+file, "http://qlive/migrations", "-w", "%{http_code}")...)
			if !strings.Contains(out, "413") {
				t.Errorf("%v: %s", args, out)
			}
		}
	})
	t.Run("console", func(t *testing.T) {
		if _, code := s.curl("-f", "--data-binary", "ls\n", "http://qlive/vms/vm1/console"); code != 0 || svc.Typed() != "ls\n" {
			t.Errorf("curl %d, typed %q", code, svc.Typed())
		}
	})
	t.Run("events", func(t *testing.T) {
		out, code := s.curl("-N", "-m", "0.3", "http://qlive/events")
		if code != 28 || !strings.Contains(out, "event: reset\ndata: {") {
			t.Errorf("curl %d: %s", code, out)
		}
	})
}

// A port that somebody forwards to the socket is open to the pages of that person's browser.
func TestBrowserThroughAForwardedPort(t *testing.T) {
	s := start(t, restapitest.New(restapitest.VM("vm1")), restapi.Options{})
	s.do("GET", "/vms", "", "Host: localhost:8080", "Sec-Fetch-Site: same-origin").want(200)
	s.do("POST", "/vms/vm1/pause", "", "Host: localhost:8080", "Origin: http://localhost:8080").want(200)
	s.do("POST", "/vms/vm1/pause", "", "Host: localhost:8080", "Origin: http://evil.example").problem(403, vmstate.Denied)
	s.do("POST", "/vms/vm1/pause", "", "Host: evil.example:8080", "Origin: http://evil.example:8080").problem(403, vmstate.Denied)
	s.do("GET", "/vms", "", "Host: whatever").want(200)
	// A page whose name is made to lead here is at home, to the browser: it says neither origin nor site.
	s.do("GET", "/vms", "", "Host: evil.example:8080").problem(403, vmstate.Denied)
	s.do("GET", "/vms", "", "Host: evil.example").problem(403, vmstate.Denied)
	s.do("GET", "/vms", "", "Host: 127.0.0.1:8080").want(200)
	s.do("GET", "/vms", "", "Host: [::1]").want(200)
}

func TestPanicIsNotSwallowed(t *testing.T) {
	crashed := make(chan any, 1)
	s := start(t, restapitest.New(restapitest.VM("vm1")), restapi.Options{
		Access: panicking{},
		Crash:  func(reason any, _ []byte) { crashed <- reason },
	})
	s.do("GET", "/vms", "")
	if got := <-crashed; got != "out of ideas" {
		t.Errorf("crashed with %v", got)
	}
}

type panicking struct{}

func (panicking) Role(restapi.Peer) vmstate.Role { panic("out of ideas") }

// A client that leaves before the answer must not be taken for a fault of ours.
func TestClientThatLeaves(t *testing.T) {
	var vms []vmstate.VM
	for i := range 500 {
		vms = append(vms, restapitest.VM("vm"+strings.Repeat("x", i%40)+string(rune('a'+i%26))))
	}
	s := start(t, restapitest.New(vms...), restapi.Options{})
	for range 50 {
		conn, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET /vms?limit=1000 HTTP/1.1\r\nHost: qlive\r\n\r\nGET /vms HTTP/1.1\r\nHost: qlive\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	s.do("GET", "/vms", "").want(200)
}

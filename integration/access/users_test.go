package access_test

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
)

// A guest among users of the host: root does everything, members of the group operate it, and strangers are not let in.
func testUsers(t *testing.T, program string) {
	s := newScene(t, program, forOperators)
	s.Lab.Start(lab.Spec{Bare: true})
	pid := s.Cat("vm1", "pid")
	spec := fmt.Sprintf(`{"name":"vm2","binary":%q,"args":["-S"]}`, s.Env.QEMU(env.Installed))

	t.Run("strangers", func(t *testing.T) {
		out, err := s.run(stranger(), "curl", "-sS", "--unix-socket", s.Socket, "http://qlive/vms")
		if err == nil || !strings.Contains(out, "(7)") {
			t.Errorf("a stranger has connected: %v, %s", err, out)
		}
		for _, file := range []string{"", "/version", "/vm1/status", "/vm1/console", "/events"} {
			if out, err := s.run(stranger(), "head", "-c1", s.Mount+file); err == nil || !strings.Contains(out, "Permission denied") {
				t.Errorf("a stranger reads %s: %v, %s", file, err, out)
			}
		}
		if out, err := s.write(stranger(), "pause"); err == nil || !strings.Contains(out, "Permission denied") {
			t.Errorf("a stranger writes: %v, %s", err, out)
		}
	})
	t.Run("members operate", func(t *testing.T) {
		for _, step := range []struct{ path, status string }{
			{"/vms/vm1/pause", "paused"}, {"/vms/vm1/resume", "running"}, {"/v1/vms/vm1/pause", "paused"}, {"/v1/vms/vm1/resume", "running"},
		} {
			if code, body := s.curl(member(), step.path, "-X", "POST"); code != "200" {
				t.Errorf("%s: %s %s", step.path, code, body)
			}
			s.await("status", step.status)
		}
		if code, body := s.curl(member(), "/migrations?wait=1m", "-d", fmt.Sprintf(`{"vm":"vm1","binary":%q}`, s.Env.QEMU(env.Newest))); code != "200" {
			t.Errorf("migrating: %s %s", code, body)
		}
		for _, step := range []struct{ command, status string }{{"pause", "paused"}, {"resume", "running"}} {
			if out, err := s.write(member(), step.command); err != nil {
				t.Errorf("%s: %v, %s", step.command, err, out)
			}
			s.await("status", step.status)
		}
		if out, err := s.write(member(), "rollback"); err != nil {
			t.Errorf("rollback: %v, %s", err, out)
		}
		s.await("generation", "2")
		s.await("migration/phase", "completed")
		if out, err := s.run(member(), "cat", s.Mount+"/vm1/state.json"); err != nil || !strings.Contains(out, `"name": "vm1"`) {
			t.Errorf("reading: %v, %s", err, out)
		}
	})
	t.Run("members do not administer", func(t *testing.T) {
		for _, c := range []struct {
			path string
			args []string
		}{
			{"/vms", []string{"-d", spec}},
			{"/v1/vms", []string{"-d", spec}},
			{"/vms/vm1", []string{"-X", "DELETE"}},
			{"/vms/vm1?force=true", []string{"-X", "DELETE"}},
		} {
			code, body := s.curl(member(), c.path, c.args...)
			if code != "403" || !strings.Contains(body, "needs the role admin") || !strings.Contains(body, `"remedy":"use sudo`) {
				t.Errorf("%v: %s %s", c, code, body)
			}
		}
		if out, err := s.write(member(), "migrate /bin/true"); err == nil || !strings.Contains(out, "not permitted") {
			t.Errorf("a member has run what allowed_binaries does not admit: %v, %s", err, out)
		}
	})
	if s.Cat("vm1", "status") != "running" || s.Cat("vm1", "pid") == pid {
		t.Errorf("vm1 is %s, in process %s", s.Cat("vm1", "status"), s.Cat("vm1", "pid"))
	}
	if code, body := s.curl(root(), "/vms", "-d", spec); code != "201" {
		t.Errorf("root starts: %s %s", code, body)
	}
	if code, body := s.curl(root(), "/vms/vm2?force=true", "-X", "DELETE"); code != "204" {
		t.Errorf("root removes: %s %s", code, body)
	}
}

// Where the configuration opens it strangers look, and do no more.
func testOpenedToOthers(t *testing.T, program string) {
	s := newScene(t, program, forOperators+"others: read\n")
	for _, path := range []string{"/vms", "/version", "/readyz"} {
		if code, body := s.curl(stranger(), path); code != "200" {
			t.Errorf("%s: %s %s", path, code, body)
		}
	}
	for _, path := range []string{"/vms/vm1/pause", "/migrations", "/vms", "/vms/vm1/console"} {
		code, body := s.curl(stranger(), path, "-d", "{}")
		if code != "403" || !strings.Contains(body, "with the role read") {
			t.Errorf("%s: %s %s", path, code, body)
		}
	}
	if out, err := s.run(stranger(), "cat", s.Mount+"/health"); err != nil || !strings.HasPrefix(out, "ok") {
		t.Errorf("the tree: %v, %s", err, out)
	}
	if out, err := s.run(stranger(), "ls", "-l", s.Socket); err != nil || !strings.HasPrefix(out, "srw-rw-rw- 1 0 "+fmt.Sprint(operators)) && !strings.HasPrefix(out, "srw-rw-rw- 1 root "+fmt.Sprint(operators)) {
		t.Errorf("the socket: %v, %s", err, out)
	}
}

// A group that does not exist leaves everything to root, and the log says so.
func testNoGroup(t *testing.T, program string) {
	s := newScene(t, program, "group: no-such-group\n")
	if out, err := s.run(root(), "stat", "-c", "%a %u:%g", s.Socket); err != nil || out != "600 0:0\n" {
		t.Errorf("the socket is %s, %v", out, err)
	}
	if code, _ := s.curl(member(), "/vms"); code != "000" {
		t.Errorf("a member of nothing is answered: %s", code)
	}
	if code, body := s.curl(root(), "/vms"); code != "200" {
		t.Errorf("root: %s %s", code, body)
	}
	if out, err := s.run(member(), "ls", s.Mount); err == nil {
		t.Errorf("a member of nothing sees the tree: %s", out)
	}
	if !strings.Contains(s.Log(), "no-such-group") {
		t.Errorf("the log does not name the group:\n%s", s.Log())
	}
}

// However much a member holds, others are served, and who holds too much is told so.
func testCrowd(t *testing.T, program string) {
	s := newScene(t, program, forOperators+"limits: {per_user: 3, streams_per_user: 2}\n")
	for range 2 {
		begin := make([]byte, len(": qlive"))
		if _, err := io.ReadFull(s.hold(member(), "http://qlive/events"), begin); err != nil || string(begin) != ": qlive" {
			t.Fatalf("events begin with %q, %v", begin, err)
		}
	}
	if code, body := s.curl(member(), "/events", "-m", "10", "-i"); code != "503" || !strings.Contains(body, "Retry-After: ") || !strings.Contains(body, "another reader of events") {
		t.Errorf("a third reader of events: %s %s", code, body)
	}
	if code, body := s.curl(member(), "/vms"); code != "200" {
		t.Errorf("the third connection: %s %s", code, body)
	}
	s.Eventually("a fourth connection is refused", func() error {
		s.hold(member(), "-T", "-", "-X", "POST", "http://qlive/migrations") // the third, unless the question below was quicker
		code, body := s.curl(member(), "/vms", "-i")
		if code != "503" || !strings.Contains(body, "Retry-After: ") || !strings.Contains(body, "another connection") {
			return fmt.Errorf("%s %s", code, body)
		}
		return nil
	})
	for _, path := range []string{"/vms", "/v1/version"} {
		if code, body := s.curl(root(), path); code != "200" {
			t.Errorf("root: %s: %s %s", path, code, body)
		}
	}
	if out, err := s.run(root(), "head", "-c", "1", s.Mount+"/events"); err != nil || out != "{" {
		t.Errorf("root reads events in the tree: %s, %v", out, err)
	}
}

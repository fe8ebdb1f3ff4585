package access_test

import (
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/restapi/restapitest"
)

// freePort is an address that nobody listens on at this moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A guest is operated over TCP by those whose certificates have a role, and by nobody else.
func testTCP(t *testing.T, program string) {
	ca := restapitest.NewAuthority(t)
	server := ca.Server("qlive.example")
	admin := ca.Client("admin")
	operator := ca.Client("operator", func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{"operators"} })
	addr := freePort(t)
	s := newScene(t, program, fmt.Sprintf(`listen: %q
tls:
  certificate: %q
  key: %q
  client_ca: %q
  roles:
    - {fingerprint: "sha256:%s", role: admin}
    - {organizational_unit: operators, role: operate}
    - {common_name: reader, role: read}
`, addr, server.File, server.KeyFile, ca.File(), admin.Fingerprint))
	s.Lab.Start(lab.Spec{Bare: true})
	_, port, _ := net.SplitHostPort(addr)
	ask := func(c restapitest.Certificate, path string, args ...string) (code, body string) {
		out, err := s.run(root(), "curl", append([]string{"-sS", "-w", "\n%{http_code}", "--cacert", ca.File(), "--cert", c.File, "--key", c.KeyFile,
			"https://localhost:" + port + path}, args...)...)
		if err != nil {
			t.Logf("%s: %v: %s", path, err, out)
		}
		body, code, _ = cutLast(out, "\n")
		return code, body
	}
	for _, c := range []struct {
		name               string
		cert               restapitest.Certificate
		read, pause, start string
	}{
		{"admin", admin, "200", "200", "422"},
		{"operator", operator, "200", "200", "403"},
		{"reader", ca.Client("reader"), "200", "403", "403"},
		{"of no rule", ca.Client("eve"), "403", "403", "403"},
		{"of another authority", restapitest.NewAuthority(t).Client("admin"), "000", "000", "000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			read, text := ask(c.cert, "/vms/vm1")
			pause, _ := ask(c.cert, "/vms/vm1/pause", "-X", "POST")
			start, _ := ask(c.cert, "/vms", "--json", `{"name":"vm2"}`)
			if read != c.read || pause != c.pause || start != c.start {
				t.Errorf("read %s, pause %s, start %s; want %s, %s, %s: %s", read, pause, start, c.read, c.pause, c.start, text)
			}
		})
	}
	if code, body := ask(operator, "/vms/vm1/resume", "-X", "POST"); code != "200" {
		t.Errorf("resume: %s %s", code, body)
	}
	if code, body := ask(operator, "/migrations?wait=1m", "--json", fmt.Sprintf(`{"vm":"vm1","binary":%q}`, s.Env.QEMU(env.Newest))); code != "200" {
		t.Errorf("migrating: %s %s", code, body)
	}
	for _, args := range [][]string{
		{"-H", "Host: evil.example"}, {"-H", "Origin: https://evil.example"}, {"-H", "Sec-Fetch-Site: cross-site"}, {"-H", "Referer: https://evil.example/"},
	} {
		if code, body := ask(admin, "/vms", args...); code != "403" {
			t.Errorf("%v: %s %s", args, code, body)
		}
	}
	if code, body := ask(admin, "/vms", "-H", "Host: qlive.example"); code != "200" {
		t.Errorf("by the certificate's name: %s %s", code, body)
	}
	if code, body := ask(admin, "/vms", "--tls-max", "1.2"); code != "000" {
		t.Errorf("TLS 1.2: %s %s", code, body)
	}
	if out, err := s.run(root(), "curl", "-sS", "--cacert", ca.File(), "https://localhost:"+port+"/vms"); err == nil {
		t.Errorf("without a certificate: %s", out)
	}
	if s.Cat("vm1", "status") != "running" {
		t.Errorf("vm1 is %s", s.Cat("vm1", "status"))
	}
}

// The daemon does not start with a configuration that would let in more than it says.
func testRefusedConfigurations(t *testing.T, program string) {
	ca := restapitest.NewAuthority(t)
	for _, c := range []struct{ name, config, says string }{
		{"TCP without TLS", "listen: 127.0.0.1:0\n", "tls."},
		{"TLS without clients' authority", fmt.Sprintf("listen: 127.0.0.1:0\ntls: {certificate: %q, key: %q, roles: [{common_name: a, role: read}]}\n", ca.Server().File, ca.Server().KeyFile), "tls.client_ca"},
		{"an address of all", "listen: \":8443\"\n", "HOST:PORT"},
		{"others operate", "others: operate\n", "cannot let others operate"},
		{"no such role", "others: root\n", "the roles are"},
		{"negative limit", "limits: {connections: -1}\n", "limits.connections"},
		{"no duration", "limits: {idle_time: 5}\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			config := filepath.Join(dir, "qlive.yaml")
			if err := os.WriteFile(config, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), program, "daemon", "--config", config, "--socket", dir+"/s", "--mount", "none", "--run-dir", dir+"/run", "--state-dir", dir+"/state")
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.says) {
				t.Errorf("%v: %s", err, out)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("it has made something: %v", entries)
			}
		})
	}
}

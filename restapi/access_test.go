package restapi_test

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"qlive/restapi"
	"qlive/restapi/restapitest"
	"qlive/vmstate"
)

func TestRules(t *testing.T) {
	ca := restapitest.NewAuthority(t)
	robot, person := ca.Client("robot"), ca.Client("ada", func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{"it", "operators"} })
	of := func(c restapitest.Certificate) restapi.Peer { return restapi.Peer{Certificate: c.Pair.Leaf} }
	colons := strings.ToUpper(regexp.MustCompile("(..)(.)").ReplaceAllString(robot.Fingerprint, "$1:$2"))
	for _, c := range []struct {
		name  string
		rules []restapi.CertificateRule
		peer  restapi.Peer
		want  vmstate.Role
	}{
		{"root", nil, restapi.Peer{Local: true}, vmstate.RoleAdmin},
		{"a member", nil, restapi.Peer{Local: true, UID: 1000, Groups: []uint32{77}}, vmstate.RoleOperate},
		{"another", nil, restapi.Peer{Local: true, UID: 1000}, vmstate.RoleNone},
		{"TCP, all zero", nil, restapi.Peer{}, vmstate.RoleNone},
		{"no rule", nil, of(robot), vmstate.RoleNone},
		{"by name", []restapi.CertificateRule{{CommonName: "robot", Role: vmstate.RoleRead}}, of(robot), vmstate.RoleRead},
		{"another name", []restapi.CertificateRule{{CommonName: "robo", Role: vmstate.RoleRead}}, of(robot), vmstate.RoleNone},
		{"by unit", []restapi.CertificateRule{{OrganizationalUnit: "operators", Role: vmstate.RoleOperate}}, of(person), vmstate.RoleOperate},
		{"a unit that it lacks", []restapi.CertificateRule{{OrganizationalUnit: "operators", Role: vmstate.RoleOperate}}, of(robot), vmstate.RoleNone},
		{"by fingerprint", []restapi.CertificateRule{{Fingerprint: robot.Fingerprint, Role: vmstate.RoleAdmin}}, of(robot), vmstate.RoleAdmin},
		{"as openssl prints it", []restapi.CertificateRule{{Fingerprint: colons, Role: vmstate.RoleAdmin}}, of(robot), vmstate.RoleAdmin},
		{"another's fingerprint", []restapi.CertificateRule{{Fingerprint: person.Fingerprint, Role: vmstate.RoleAdmin}}, of(robot), vmstate.RoleNone},
		{"all conditions", []restapi.CertificateRule{{CommonName: "ada", OrganizationalUnit: "sales", Role: vmstate.RoleAdmin}}, of(person), vmstate.RoleNone},
		{"the first that fits", []restapi.CertificateRule{{CommonName: "x", Role: vmstate.RoleRead}, {CommonName: "ada", Role: vmstate.RoleOperate}, {OrganizationalUnit: "it", Role: vmstate.RoleAdmin}}, of(person), vmstate.RoleOperate},
		{"a rule without conditions", []restapi.CertificateRule{{Role: vmstate.RoleAdmin}}, of(person), vmstate.RoleNone},
	} {
		t.Run(c.name, func(t *testing.T) {
			rules := restapi.Rules{Users: vmstate.Trust{UID: 500, Group: 77}, Certificates: c.rules}
			if got := rules.Role(c.peer); got != c.want {
				t.Errorf("role %s, want %s", got, c.want)
			}
		})
	}
}

// Every route that the router serves is in the table, and the other way round; the document says the same.
func TestTableOfRoutes(t *testing.T) {
	table := restapi.RouteRoles()
	served := map[string]bool{}
	for _, route := range restapi.Routes() {
		served[route] = true
		if table[route] == vmstate.RoleNone {
			t.Errorf("%s is served, and routeRoles does not say to whom", route)
		}
	}
	for route := range table {
		if !served[route] {
			t.Errorf("%s is in the table and not served", route)
		}
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Role string `json:"x-qlive-role"`
		}
	}
	if err := json.Unmarshal(restapi.OpenAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if route := strings.ToUpper(method) + " " + path; op.Role != table[route].String() {
				t.Errorf("the document says that %s is for %q, the table %q", route, op.Role, table[route])
			}
		}
	}
}

// at is a path that the route serves.
func at(route string) (method, path string) {
	method, path, _ = strings.Cut(route, " ")
	return method, strings.NewReplacer("{vm}", "vm1", "{id}", "mig-1", "{region}", "ram0").Replace(path)
}

// Each route refuses each role that is too low, under both of its paths, and changes nothing.
func TestRolesOfRoutes(t *testing.T) {
	for _, role := range vmstate.Roles() {
		svc := restapitest.New(restapitest.VM("vm1"))
		svc.SetMigration(vmstate.Migration{ID: "mig-1", VM: "vm1"})
		before := svc.Snapshot().Seq
		s := start(t, svc, restapi.Options{Access: everyone(role)})
		for route, needs := range restapi.RouteRoles() {
			if role >= needs {
				continue
			}
			method, path := at(route)
			for _, prefix := range []string{"", "/v1"} {
				r := s.do(method, prefix+path, "").problem(403, vmstate.Denied)
				if !strings.Contains(r.Detail, role.String()) || r.Remedy == "" || role > vmstate.RoleNone && !strings.Contains(r.Detail, needs.String()) {
					t.Errorf("%s as %s: %q, remedy %q", route, role, r.Detail, r.Remedy)
				}
			}
		}
		if role == vmstate.RoleNone {
			s.do("GET", "/no/such/route", "").problem(403, vmstate.Denied)
		}
		if after := svc.Snapshot().Seq; after != before {
			t.Errorf("the role %s changed something that it may not", role)
		}
	}
}

// A route that nobody has decided on is refused to everybody, which also shows that no route goes past the table.
func TestRouteWithoutRole(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	s := serve(t, svc, restapi.NewWithRoles(svc, restapi.Options{Access: everyone(vmstate.RoleAdmin)}, nil), restapi.Limits{})
	for _, route := range restapi.Routes() {
		method, path := at(route)
		if r := s.do(method, path, "").problem(403, vmstate.Denied); !strings.Contains(r.Detail, route) {
			t.Errorf("%s: %s", route, r.Detail)
		}
		if method == "GET" {
			if a := s.do("HEAD", path, ""); a.status != 403 {
				t.Errorf("HEAD %s: %d", path, a.status)
			}
		}
	}
}

// Real users, as the kernel tells them.
func TestRolesOfUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test starts curl as other users and needs root")
	}
	const group = 43210
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{Access: restapi.Rules{Users: vmstate.Trust{Group: group, Others: vmstate.RoleRead}}})
	if err := errors.Join(os.Chmod(filepath.Dir(s.socket), 0o755), os.Chmod(s.socket, 0o660)); err != nil {
		t.Fatal(err)
	}
	many := make([]uint32, 200) // more than the first guess of peerGroups
	for i := range many {
		many[i] = uint32(50_000 + i)
	}
	many[150] = group
	curl := func(uid, gid uint32, groups []uint32, args ...string) string {
		t.Helper()
		cmd := exec.Command("curl", append([]string{"-s", "-S", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", s.socket}, args...)...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%s (%v)", out, err)
		}
		return string(out)
	}
	for _, c := range []struct {
		name             string
		uid, gid         uint32
		groups           []uint32
		read, op, manage string
	}{
		{"root", 0, 0, nil, "200", "200", "201"},
		{"member by its first group", 43001, group, nil, "200", "200", "403"},
		{"member by another group", 43001, 43001, []uint32{1, group}, "200", "200", "403"},
		{"member by one of many", 43001, 43001, many, "200", "200", "403"},
	} {
		if err := os.Chown(s.socket, 0, group); err != nil {
			t.Fatal(err)
		}
		read := curl(c.uid, c.gid, c.groups, "http://qlive/vms")
		op := curl(c.uid, c.gid, c.groups, "-X", "POST", "http://qlive/vms/vm1/pause")
		manage := curl(c.uid, c.gid, c.groups, "-d", `{"name":"new","binary":"/q","args":[]}`, "http://qlive/vms")
		if read != c.read || op != c.op || manage != c.manage {
			t.Errorf("%s: read %s, operate %s, administer %s; want %s, %s, %s", c.name, read, op, manage, c.read, c.op, c.manage)
		}
	}
	if got := curl(43001, 43001, nil, "http://qlive/vms"); !strings.Contains(got, "000 (exit status 7)") {
		t.Errorf("a stranger connects to a socket of mode 0660: %s", got)
	}
	if err := os.Chmod(s.socket, 0o666); err != nil {
		t.Fatal(err)
	}
	if read, op := curl(43001, 43001, nil, "http://qlive/vms"), curl(43001, 43001, nil, "-X", "POST", "http://qlive/vms/vm1/pause"); read != "200" || op != "403" {
		t.Errorf("a stranger let in: read %s, operate %s", read, op)
	}
}

// The socket's mode lets in exactly those who have a role.
func TestModeOfSocket(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	for _, c := range []struct {
		name  string
		trust vmstate.Trust
		mode  os.FileMode
		gid   uint32
	}{
		{"no group", vmstate.Trust{Group: -1}, 0o600, 0},
		{"group", vmstate.Trust{Group: 43210}, 0o660, 43210},
		{"open", vmstate.Trust{Group: 43210, Others: vmstate.RoleRead}, 0o666, 43210},
		{"open, no group", vmstate.Trust{Others: vmstate.RoleRead}, 0o666, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			l, err := restapi.Listen(path, c.trust)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); info.Mode().Perm() != c.mode || st.Gid != c.gid || st.Uid != 0 {
				t.Errorf("mode %v of %d:%d, want %v of 0:%d", info.Mode(), st.Uid, st.Gid, c.mode, c.gid)
			}
		})
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	l, err := restapi.Listen(path, vmstate.Trust{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := restapi.Listen(path, vmstate.Trust{}); vmstate.KindOf(err) != vmstate.Conflict {
		t.Errorf("a second listener: %v", err)
	}
	// One whose owner died.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	l, err = restapi.Listen(path, vmstate.Trust{})
	if err != nil {
		t.Fatalf("a dead socket stands in the way: %v", err)
	}
	l.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := restapi.Listen(path, vmstate.Trust{}); vmstate.KindOf(err) != vmstate.Conflict {
		t.Errorf("a file in the way: %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("the file is now %q, %v", text, err)
	}
	if _, err := restapi.Listen(filepath.Join(dir, strings.Repeat("long", 30)), vmstate.Trust{}); vmstate.KindOf(err) != vmstate.Host {
		t.Errorf("a long path: %v", err)
	}
	if _, err := restapi.Listen(filepath.Join(dir, "no", "s"), vmstate.Trust{}); vmstate.KindOf(err) != vmstate.Host {
		t.Errorf("no folder: %v", err)
	}
}

func TestGroupID(t *testing.T) {
	for name, want := range map[string]int{"": -1, "root": 0, "1234": 1234} {
		if got, err := restapi.GroupID(name); err != nil || got != want {
			t.Errorf("%q is %d, %v", name, got, err)
		}
	}
	if _, err := restapi.GroupID("no-such-group"); vmstate.KindOf(err) != vmstate.Invalid {
		t.Errorf("no such group: %v", err)
	}
}

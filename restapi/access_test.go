package restapi_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"qlive/restapi"
	"qlive/restapi/restapitest"
	"qlive/vmstate"
)

func TestLocalAccess(t *testing.T) {
	a := restapi.LocalAccess{UID: 500, Group: 77}
	for _, c := range []struct {
		name string
		peer restapi.Peer
		want restapi.Role
	}{
		{"root", restapi.Peer{Local: true}, restapi.RoleAdmin},
		{"the daemon's user", restapi.Peer{Local: true, UID: 500}, restapi.RoleAdmin},
		{"a member", restapi.Peer{Local: true, UID: 1000, Groups: []uint32{1000, 77}}, restapi.RoleOperate},
		{"another", restapi.Peer{Local: true, UID: 1000, Groups: []uint32{1000, 0}}, restapi.RoleRead},
		{"TCP, all zero", restapi.Peer{}, restapi.RoleRead},
	} {
		if got := a.Role(c.peer); got != c.want {
			t.Errorf("%s is %s, want %s", c.name, got, c.want)
		}
	}
	none := restapi.LocalAccess{UID: 500, Group: -1}
	if got := none.Role(restapi.Peer{Local: true, UID: 1, Groups: []uint32{^uint32(0)}}); got != restapi.RoleRead {
		t.Errorf("without a group somebody may %s", got)
	}
}

// Every route has the role that the document says, and refuses those below it.
func TestRolesOfRoutes(t *testing.T) {
	want := map[string]restapi.Role{
		"POST /vms": restapi.RoleAdmin, "DELETE /vms/{vm}": restapi.RoleOperate, "POST /vms/{vm}/pause": restapi.RoleOperate, "POST /vms/{vm}/resume": restapi.RoleOperate,
		"POST /vms/{vm}/reset": restapi.RoleOperate, "POST /vms/{vm}/powerdown": restapi.RoleOperate, "POST /vms/{vm}/rollback": restapi.RoleOperate,
		"POST /vms/{vm}/console": restapi.RoleOperate, "POST /migrations": restapi.RoleOperate, "DELETE /migrations/{id}": restapi.RoleOperate, "POST /migrations/{id}/continue": restapi.RoleOperate,
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Role string `json:"x-qlive-role"`
		}
	}
	if err := json.Unmarshal(restapi.OpenAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	svc := restapitest.New(restapitest.VM("vm1"))
	svc.SetMigration(vmstate.Migration{ID: "mig-1", VM: "vm1"})
	reader := start(t, svc, restapi.Options{Access: everyone(restapi.RoleRead)})
	operator := start(t, restapitest.New(), restapi.Options{Access: everyone(restapi.RoleOperate)})
	before := svc.Snapshot().Seq
	seen := 0
	for path, methods := range doc.Paths {
		for method, op := range methods {
			method = strings.ToUpper(method)
			route := method + " " + path
			role := want[route] // RoleRead for what is not in the table
			if op.Role != role.String() {
				t.Errorf("%s is for role %q, want %s", route, op.Role, role)
			}
			seen++
			url := strings.NewReplacer("{vm}", "vm1", "{id}", "mig-1", "{region}", "ram0").Replace(path)
			if role > restapi.RoleRead {
				reader.do(method, url, "").problem(403, vmstate.Denied)
			}
			if role > restapi.RoleOperate {
				operator.do(method, "/v1"+url, "").problem(403, vmstate.Denied)
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d routes", seen)
	}
	if after := svc.Snapshot().Seq; after != before {
		t.Error("a reader changed something")
	}
}

// Real users, as the kernel tells them.
func TestRolesOfUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test starts curl as other users and needs root")
	}
	const group = 43210
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{Access: restapi.LocalAccess{UID: 0, Group: group}})
	if err := os.Chmod(filepath.Dir(s.socket), 0o755); err != nil {
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

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	l, err := restapi.Listen(path, os.Getegid())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if _, err := restapi.Listen(path, -1); vmstate.KindOf(err) != vmstate.Conflict {
		t.Errorf("a second listener: %v", err)
	}
	// One whose owner died.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	l, err = restapi.Listen(path, -1)
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
	if _, err := restapi.Listen(path, -1); vmstate.KindOf(err) != vmstate.Conflict {
		t.Errorf("a file in the way: %v", err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("the file is now %q, %v", text, err)
	}
	if _, err := restapi.Listen(filepath.Join(dir, strings.Repeat("long", 30)), -1); vmstate.KindOf(err) != vmstate.Host {
		t.Errorf("a long path: %v", err)
	}
	if _, err := restapi.Listen(filepath.Join(dir, "no", "s"), -1); vmstate.KindOf(err) != vmstate.Host {
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

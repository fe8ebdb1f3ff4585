package restapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qlive/restapi"
	"qlive/restapi/restapitest"
	"qlive/vmstate"
)

type vmList struct {
	Items      []vmstate.VM `json:"items"`
	NextCursor string       `json:"next_cursor"`
}

type migrationList struct {
	Items      []vmstate.Migration `json:"items"`
	NextCursor string              `json:"next_cursor"`
}

func TestVMs(t *testing.T) {
	s := start(t, restapitest.New(), restapi.Options{})
	t.Run("none", func(t *testing.T) {
		if got := s.do("GET", "/vms", "").want(200).body; got != `{"items":[]}`+"\n" {
			t.Errorf("no VMs are %q", got)
		}
	})
	spec := `{"name":"vm1","binary":"/usr/bin/qemu","args":["-m","256"],"memory":{"backing":"memfd"}}`
	t.Run("start", func(t *testing.T) {
		a := s.do("POST", "/vms", spec).want(201)
		var vm vmstate.VM
		a.into(&vm)
		if a.header.Get("Location") != "/vms/vm1" || vm.Name != "vm1" || vm.QEMU.Binary != "/usr/bin/qemu" {
			t.Errorf("started %+v at %q", vm, a.header.Get("Location"))
		}
	})
	t.Run("start again", func(t *testing.T) { s.do("POST", "/vms", spec).problem(409, vmstate.Conflict) })
	t.Run("list", func(t *testing.T) {
		var l vmList
		s.do("GET", "/vms", "").want(200).into(&l)
		if len(l.Items) != 1 || l.Items[0].Name != "vm1" {
			t.Errorf("listed %+v", l)
		}
	})
	t.Run("uptime", func(t *testing.T) {
		var vm vmstate.VM
		s.do("GET", "/vms/vm1", "").want(200).into(&vm)
		if vm.UptimeS != 60 {
			t.Errorf("up for %d s, one minute after it was started", vm.UptimeS)
		}
	})
	t.Run("list by status", func(t *testing.T) {
		var l vmList
		s.do("GET", "/vms?status=paused", "").want(200).into(&l)
		if len(l.Items) != 0 {
			t.Errorf("listed %+v", l)
		}
	})
	t.Run("versioned", func(t *testing.T) {
		plain := s.do("GET", "/vms/vm1", "").want(200)
		if diff := cmp.Diff(plain.body, s.do("GET", "/v1/vms/vm1", "").want(200).body); diff != "" {
			t.Error(diff)
		}
		a := s.do("POST", "/v1/vms", strings.ReplaceAll(spec, "vm1", "vm2")).want(201)
		if got := a.header.Get("Location"); got != "/v1/vms/vm2" {
			t.Errorf("Location is %q", got)
		}
	})
	t.Run("outdated since now", func(t *testing.T) {
		s.svc.Replace("vm1")
		var l vmList
		s.do("GET", "/vms", "").want(200).into(&l)
		if !l.Items[0].QEMU.Outdated || l.Items[1].QEMU.Outdated {
			t.Errorf("listed %+v", l)
		}
		s.svc.Replace("vm2")
		var vm vmstate.VM
		if s.do("GET", "/vms/vm2", "").want(200).into(&vm); !vm.QEMU.Outdated {
			t.Errorf("shown %+v", vm)
		}
	})
	t.Run("head", func(t *testing.T) {
		if a := s.do("HEAD", "/vms/vm1", "").want(200); a.body != "" {
			t.Errorf("HEAD has a body: %q", a.body)
		}
	})
	for verb, want := range map[string]struct {
		status int
		vm     vmstate.Status
	}{"pause": {200, vmstate.Paused}, "resume": {200, vmstate.Running}, "reset": {200, vmstate.Running}, "powerdown": {202, vmstate.Stopped}} {
		t.Run(verb, func(t *testing.T) {
			var vm vmstate.VM
			s.do("POST", "/vms/vm1/"+verb, "").want(want.status).into(&vm)
			if vm.Status != want.vm {
				t.Errorf("VM is %s", vm.Status)
			}
		})
	}
	t.Run("start", func(t *testing.T) {
		var vm vmstate.VM
		s.do("POST", "/vms/vm1/powerdown?force=true", "").want(200).into(&vm)
		if vm.Status != vmstate.Stopped {
			t.Errorf("VM is %s", vm.Status)
		}
		s.do("POST", "/vms/vm1/start", "").want(200).into(&vm)
		if vm.Status != vmstate.Running {
			t.Errorf("VM is %s", vm.Status)
		}
		s.do("POST", "/vms/vm1/start", "").problem(409, vmstate.Conflict)
		s.do("POST", "/vms/vm9/start", "").problem(404, vmstate.NotFound)
	})
	t.Run("policy", func(t *testing.T) {
		s.do("POST", "/vms", `{"name":"vm3","binary":"/q","args":[],"restart":"always"}`).problem(422, vmstate.Invalid)
		var vm vmstate.VM
		s.do("POST", "/vms", `{"name":"vm3","binary":"/q","args":[],"restart":"on-failure","autostart":true}`).want(201).into(&vm)
		if vm.Restart != vmstate.RestartOnFailure || !vm.Autostart {
			t.Errorf("%+v", vm)
		}
		s.do("DELETE", "/vms/vm3?force=true", "").want(204)
	})
	t.Run("regions", func(t *testing.T) {
		var l struct{ Items []vmstate.Region }
		s.do("GET", "/vms/vm1/regions", "").want(200).into(&l)
		var one vmstate.Region
		s.do("GET", "/vms/vm1/regions/ram0", "").want(200).into(&one)
		if len(l.Items) != 1 || cmp.Diff(l.Items[0], one) != "" {
			t.Errorf("regions %+v and %+v", l.Items, one)
		}
		s.do("GET", "/vms/vm1/regions/ram9", "").problem(404, vmstate.NotFound)
	})
	t.Run("remove", func(t *testing.T) {
		if a := s.do("DELETE", "/vms/vm1", "").want(202); a.body != "" {
			t.Errorf("body %q", a.body)
		}
		s.do("DELETE", "/vms/vm2?force=true", "").want(204)
		s.do("DELETE", "/vms/vm2?force=true", "").problem(404, vmstate.NotFound)
	})
}

func TestListVMsInPages(t *testing.T) {
	var vms []vmstate.VM
	for i := range 25 {
		vms = append(vms, restapitest.VM(fmt.Sprintf("vm%02d", i)))
	}
	s := start(t, restapitest.New(vms...), restapi.Options{})
	var names []string
	for cursor, pages := "", 0; ; pages++ {
		var l vmList
		s.do("GET", "/vms?limit=10&cursor="+cursor, "").want(200).into(&l)
		for _, vm := range l.Items {
			names = append(names, vm.Name)
		}
		if cursor = l.NextCursor; cursor == "" {
			if pages != 2 {
				t.Errorf("%d pages", pages+1)
			}
			break
		}
	}
	if len(names) != 25 || names[24] != "vm24" {
		t.Errorf("listed %v", names)
	}
}

func TestSystem(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{Version: "1.2.3"})
	t.Run("version", func(t *testing.T) {
		var v restapi.Version
		a := s.do("GET", "/version", "").want(200).into(&v)
		if v.Version != "1.2.3" || v.API != "/v1" || a.header.Get("Qlive-Version") != "1.2.3" {
			t.Errorf("version %+v", v)
		}
	})
	t.Run("healthy", func(t *testing.T) {
		s.do("GET", "/healthz", "").want(200)
		s.do("GET", "/readyz", "").want(200)
	})
	t.Run("starting", func(t *testing.T) {
		svc.SetHealth(vmstate.Health{})
		s.do("GET", "/healthz", "").want(200)
		s.do("GET", "/readyz", "").problem(503, vmstate.Unavailable)
	})
	t.Run("degraded", func(t *testing.T) {
		svc.SetHealth(vmstate.Health{Ready: true, Degraded: true, Problems: []vmstate.Problem{{Detail: "cannot mount the tree"}}})
		p := s.do("GET", "/healthz", "").problem(503, vmstate.Unavailable)
		if !strings.Contains(p.Detail, "cannot mount the tree") {
			t.Errorf("detail %q", p.Detail)
		}
		s.do("GET", "/readyz", "").want(200)
	})
	t.Run("metrics", func(t *testing.T) {
		if got := s.do("GET", "/metrics", "").want(200).body; got != "qlive_vms 1\n" {
			t.Errorf("metrics %q", got)
		}
	})
	t.Run("openapi", func(t *testing.T) {
		for _, path := range []string{"/openapi.json", "/v1/openapi.json"} {
			if got := s.do("GET", path, "").want(200).body; got != string(restapi.OpenAPI()) {
				t.Errorf("%s is another document", path)
			}
		}
	})
}

func TestPagesLoadNothingFromElsewhere(t *testing.T) {
	s := start(t, restapitest.New(), restapi.Options{})
	for _, path := range []string{"/", "/docs", "/status.js", "/style.css", "/v1/", "/v1"} {
		a := s.do("GET", path, "").want(200)
		if strings.Contains(a.body, "//") && strings.Contains(strings.ReplaceAll(a.body, "http://qlive/", ""), "http") {
			t.Errorf("%s names another host:\n%s", path, a.body)
		}
		if !strings.Contains(a.header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s has no content policy", path)
		}
	}
	docs := s.do("GET", "/docs", "").body
	for _, want := range []string{"POST /migrations", "GET /vms/{vm}/regions/{region}", "GET /events", "query <code>force</code>"} {
		if !strings.Contains(docs, want) {
			t.Errorf("/docs does not list %q", want)
		}
	}
}

func TestRouterRefusesWithProblems(t *testing.T) {
	s := start(t, restapitest.New(restapitest.VM("vm1")), restapi.Options{})
	for _, path := range []string{"/nothing", "/vms/", "/v1/nothing", "/v2/vms", "/v1x", "/vms/vm1/explode", "//vms"} {
		p := s.do("GET", path, "").problem(404, vmstate.NotFound)
		if p.Remedy == "" {
			t.Errorf("%s: no remedy", path)
		}
	}
	for _, c := range []struct{ method, path, allow string }{
		{"PUT", "/vms", "GET, HEAD, POST"},
		{"PATCH", "/vms/vm1", "DELETE, GET, HEAD"},
		{"GET", "/vms/vm1/pause", "POST"},
		{"POST", "/v1/events", "GET, HEAD"},
		{"DELETE", "/", "GET, HEAD"},
		{"OPTIONS", "/migrations", "GET, HEAD, POST"},
		{"BREW", "/vms", "GET, HEAD, POST"},
	} {
		a := s.do(c.method, c.path, "")
		a.problem(405, vmstate.Invalid)
		if got := a.header.Get("Allow"); got != c.allow {
			t.Errorf("%s %s: Allow is %q, want %q", c.method, c.path, got, c.allow)
		}
	}
}

func TestBadInput(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{})
	long := strings.Repeat("a", 64)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		says                     string
	}{
		{"broken JSON", "POST", "/migrations", "{\n \"vm\": }", 400, "line 2, column 8"},
		{"half a JSON", "POST", "/migrations", `{"vm":"vm1"`, 400, "unexpected end"},
		{"not UTF-8", "POST", "/migrations", "{\"vm\":\"vm1\",\"binary\":\"/\xff\"}", 400, "not UTF-8"},
		{"two JSONs", "POST", "/migrations", `{"vm":"vm1"}{}`, 400, "after top-level value"},
		{"no body", "POST", "/migrations", "", 400, "body is required"},
		{"not an object", "POST", "/migrations", `["vm1"]`, 422, "body: expected object"},
		{"null", "POST", "/migrations", `null`, 422, "body: expected object"},
		{"member twice", "POST", "/migrations", `{"vm":"vm1","vm":"vm2"}`, 400, `"vm" is there twice`},
		{"member twice in another case", "POST", "/migrations", `{"vm":"vm1","VM":"vm2"}`, 400, `"VM" is there twice`},
		{"unknown member", "POST", "/migrations", `{"vm":"vm1","bianry":"/x"}`, 422, "body.bianry: unknown member"},
		{"wrong type", "POST", "/migrations", `{"vm":1}`, 422, "body.vm: expected string"},
		{"fraction", "POST", "/migrations", `{"vm":"vm1","timeout_s":1.5}`, 422, "body.timeout_s: expected integer"},
		{"too small", "POST", "/migrations", `{"vm":"vm1","timeout_s":-1}`, 422, "body.timeout_s: expected number >= 0"},
		{"too large", "POST", "/migrations", `{"vm":"vm1","timeout_s":1e30}`, 422, "body.timeout_s: expected number <= 86400"},
		{"no such way", "POST", "/migrations", `{"vm":"vm1","way":"teleport"}`, 422, "body.way: expected value to be one of"},
		{"no VM", "POST", "/migrations", `{}`, 422, "property vm"},
		{"relative binary", "POST", "/migrations", `{"vm":"vm1","binary":"qemu"}`, 422, "not an absolute path"},
		{"zero byte", "POST", "/migrations", `{"vm":"vm1","binary":"/q\u0000"}`, 422, "cannot migrate"},
		{"bad name in body", "POST", "/migrations", `{"vm":"../vm1"}`, 422, "cannot call a VM"},
		{"all faults at once", "POST", "/vms", `{"name":1,"args":"-m","extra":true}`, 422, "body.args: expected array; body.extra: unknown member; body.name: expected string"},
		{"relative dir", "POST", "/vms", `{"name":"a","binary":"/q","args":[],"dir":"."}`, 422, "not an absolute path"},
		{"adopt nothing", "POST", "/vms", `{"name":"a","adopt":{}}`, 422, "neither its process nor its monitor"},
		{"adopt and start", "POST", "/vms", `{"name":"a","binary":"/q","args":[],"adopt":{"pid":7}}`, 422, "binary, args and dir are its own"},
		{"adopt by a relative path", "POST", "/vms", `{"name":"a","adopt":{"qmp":"q.sock"}}`, 422, "no absolute path"},
		{"adopt a negative process", "POST", "/vms", `{"name":"a","adopt":{"pid":-7}}`, 422, "body.adopt.pid: expected number >= 0"},
		{"kill and let run", "DELETE", "/vms/vm1?force=true&forget=true", "", 422, "cannot both kill vm1 and let it run"},
		{"reserved name", "POST", "/vms", `{"name":"events","binary":"/q","args":[]}`, 422, "the tree has an entry of that name"},
		{"upper case", "GET", "/vms/VM1", "", 422, `cannot call a VM "VM1": use 1 to 63 of`},
		{"too long", "GET", "/vms/" + long, "", 422, "cannot call a VM"},
		{"dots", "GET", "/vms/%2e%2e", "", 422, `cannot call a VM ".."`},
		{"dots and a slash", "DELETE", "/vms/..%2fvm1", "", 422, `cannot call a VM "../vm1"`},
		{"dots below a VM", "GET", "/vms/%2e%2e/regions", "", 422, `cannot call a VM ".."`},
		{"unknown query", "DELETE", "/vms/vm1?forse=true", "", 422, "query.forse: unknown query parameter"},
		{"not a boolean", "DELETE", "/vms/vm1?force=maybe", "", 422, "query.force: invalid boolean"},
		{"wait for ever", "GET", "/migrations/mig-1?wait=9999h", "", 422, "cannot wait"},
		{"wait soon", "GET", "/migrations/mig-1?wait=soon", "", 422, `query.wait: cannot wait "soon"`},
		{"rollback of nothing", "POST", "/vms/VM/rollback?wait=x", "", 422, `a digit; query.wait: cannot wait "x": write a duration`},
		{"no such limit", "GET", "/migrations?limit=0", "", 422, "query.limit"},
		{"lost cursor", "GET", "/migrations?cursor=gone", "", 422, "no longer known"},
		{"event number", "GET", "/events?after=yesterday", "", 422, "cannot go on after event"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := *s
			s.t = t
			p := s.do(c.method, c.path, c.body).problem(c.status, vmstate.Invalid)
			if !strings.Contains(p.Detail, c.says) {
				t.Errorf("detail is %q, want it to say %q", p.Detail, c.says)
			}
		})
	}
	if n := len(svc.Snapshot().Migrations); n != 0 {
		t.Errorf("%d migrations came of it", n)
	}
	for _, path := range []string{"/vms/vm9", "/vms/vm9/regions", "/vms/vm9/console", "/vms/vm9/log", "/migrations/mig-9", "/migrations/mig-9/trace", "/migrations/..", "/migrations/mig-9?wait=1s"} {
		s.do("GET", path, "").problem(404, vmstate.NotFound)
	}
	for _, path := range []string{"/vms/vm9/pause", "/vms/vm9/rollback", "/migrations/mig-9/continue"} {
		s.do("POST", path, "").problem(404, vmstate.NotFound)
	}
	s.do("POST", "/migrations", `{"vm":"vm9"}`).problem(404, vmstate.NotFound)
	s.do("DELETE", "/migrations/mig-9", "").problem(404, vmstate.NotFound)
}

func TestHugeBodies(t *testing.T) {
	s := start(t, restapitest.New(restapitest.VM("vm1")), restapi.Options{})
	huge := `{"vm":"` + strings.Repeat("a", 1<<20) + `"}`
	t.Run("announced", func(t *testing.T) { s.do("POST", "/migrations", huge).problem(413, vmstate.Invalid) })
	t.Run("chunked", func(t *testing.T) {
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://qlive/migrations", struct{ *strings.Reader }{strings.NewReader(huge)})
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = -1
		r.Header.Set("Content-Type", "application/json")
		s.send(r).problem(413, vmstate.Invalid)
	})
	t.Run("console", func(t *testing.T) {
		s.do("POST", "/vms/vm1/console", huge, "Content-Type: application/octet-stream").problem(413, vmstate.Invalid)
	})
}

func TestEveryKindOfError(t *testing.T) {
	svc := restapitest.New(restapitest.VM("vm1"))
	s := start(t, svc, restapi.Options{})
	for _, row := range vmstate.Kinds() {
		refusal := &vmstate.Error{Kind: row.Kind, Step: "load", VM: "vm1", Migration: "mig-7", Detail: "cannot do it", Remedy: "do another thing", Words: []string{"qemu: no"}}
		want := restapi.Refusal{Problem: *vmstate.ProblemOf(refusal)}
		svc.Refuse(refusal)
		got := s.do("POST", "/migrations", `{"vm":"vm1"}`).problem(row.Status, row.Kind)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-sent +got):\n%s", row.Kind, diff)
		}
	}
	svc.Refuse(fmt.Errorf("cannot open anything: %w", http.ErrBodyNotAllowed))
	s.do("POST", "/vms/vm1/pause", "").problem(500, vmstate.Internal)
}

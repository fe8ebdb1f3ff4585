package restapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"qlive/restapi"
	"qlive/restapi/restapitest"
	"qlive/vmstate"
)

// Whatever the body of a request is: it is taken, or refused with a problem.
func FuzzBodies(f *testing.F) {
	var posts []string
	for _, route := range restapi.Routes() {
		if method, path := at(route); method == http.MethodPost {
			posts = append(posts, path)
		}
	}
	slices.Sort(posts)
	for _, seed := range []string{`{"vm":"vm1"}`, `{"vm":"vm1","hold":true,"timeout_s":5,"way":"live"}`, `{"vm":`, `null`, `[]`, `{"vm":"vm1","VM":""}`, `{"vm":"\ud800"}`,
		`{"name":"a","binary":"/b","args":["-m","1"],"memory":{"page_bytes":4096}}`, strings.Repeat("[", 10_000), "\xff", `{"vm":"vm1","timeout_s":1e309}`, `{"to":"source"}`} {
		for i := range posts {
			f.Add(uint8(i), seed)
		}
	}
	handler := restapi.New(restapitest.New(restapitest.VM("vm1")), restapi.Options{
		Access: everyone(vmstate.RoleAdmin),
		Crash:  func(reason any, stack []byte) { panic(string(stack)) },
		Hosts:  []string{"qlive"},
	})
	f.Fuzz(func(t *testing.T, route uint8, text string) {
		path := posts[int(route)%len(posts)]
		r, err := http.NewRequest("POST", "http://qlive"+path, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		w := &recorder{header: http.Header{}}
		handler.ServeHTTP(w, r)
		switch w.status {
		case 200, 201, 202, 204:
		case 400, 404, 409, 413, 422:
			var p restapi.Refusal
			if err := json.Unmarshal(w.body.Bytes(), &p); err != nil || p.Status != w.status || p.Detail == "" || w.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s %q: %d is no problem: %s", path, text, w.status, w.body.String())
			}
		default:
			t.Errorf("%s %q: status %d: %s", path, text, w.status, w.body.String())
		}
	})
}

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
func (r *recorder) WriteHeader(status int)      { r.status = status }

// Whatever a reader asks for, and however it is written: nothing changes, and no answer to anything but a question is a success. The
// same is true of everything for those who have no role, and for pages of other sites.
func FuzzRequests(f *testing.F) {
	for _, route := range restapi.Routes() {
		method, path := at(route)
		f.Add(method, path, "qlive", "", `{"vm":"vm1"}`)
		f.Add(method, "/v1"+path+"?wait=1h&force=true&follow=true&tail=3&limit=1", "localhost", "http://localhost", "")
	}
	for _, path := range []string{"//vms/vm1/pause", "/v1//vms/vm1/pause", "/vms/vm1/pause/", "/vms/vm1%2Fpause", "/%76ms/vm1/pause", "/v1/v1/vms", "/vms/../vms/vm1/pause", "/vms/vm1;/pause", "/vms/./vm1/pause"} {
		f.Add("POST", path, "qlive", "null", "")
	}
	svc := restapitest.New(restapitest.VM("vm1"))
	svc.SetMigration(vmstate.Migration{ID: "mig-1", VM: "vm1", Phase: vmstate.Prepared})
	before := svc.Snapshot().Seq
	crash := func(_ any, stack []byte) { panic(string(stack)) }
	reader := restapi.New(svc, restapi.Options{Access: everyone(vmstate.RoleRead), Crash: crash, Hosts: []string{"qlive"}})
	nobody := restapi.New(svc, restapi.Options{Access: everyone(vmstate.RoleNone), Crash: crash, Hosts: []string{"qlive"}})
	gone, leave := context.WithCancel(context.Background())
	leave() // nobody waits for the answer
	f.Fuzz(func(t *testing.T, method, target, host, origin, body string) {
		ask := func(h http.Handler) *recorder {
			r, err := http.NewRequestWithContext(gone, method, "http://qlive/", strings.NewReader(body))
			if err != nil {
				t.Skip("no method")
			}
			if r.URL, err = r.URL.Parse(target); err != nil || r.URL.Opaque != "" || !strings.HasPrefix(r.URL.Path, "/") {
				t.Skip("no target of a request")
			}
			r.Host = host
			r.Header.Set("Content-Type", "application/json")
			if origin != "" {
				r.Header.Set("Origin", origin)
			}
			w := &recorder{header: http.Header{}}
			h.ServeHTTP(w, r)
			return w
		}
		w := ask(reader)
		if asks := method == "" || method == http.MethodGet || method == http.MethodHead; !asks && w.status < 400 {
			t.Errorf("%s %s: %d to a reader: %s", method, target, w.status, w.body.String())
		}
		if w.status >= 400 && method != http.MethodHead {
			var p restapi.Refusal
			if err := json.Unmarshal(w.body.Bytes(), &p); err != nil || p.Status != w.status || p.Detail == "" {
				t.Errorf("%s %s: %d is no problem: %s", method, target, w.status, w.body.String())
			}
		}
		if w := ask(nobody); w.status != http.StatusForbidden {
			t.Errorf("%s %s: %d to nobody: %s", method, target, w.status, w.body.String())
		}
		if svc.Snapshot().Seq != before {
			t.Fatalf("%s %s has changed something", method, target)
		}
	})
}

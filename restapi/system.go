package restapi

import (
	"context"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"qlive/vmstate"
)

// Version says what answers.
type Version struct {
	Version    string   `json:"version" doc:"of qlive"`
	Commit     string   `json:"commit,omitempty" doc:"that it was built from"`
	Go         string   `json:"go" doc:"that built it"`
	API        string   `json:"api" doc:"prefix of the versioned routes"`
	Extensions []string `json:"extensions" doc:"what this API has beyond its first form"`
}

func (a *api) systemRoutes() {
	tags := []string{"Daemon"}
	unready := map[string]*huma.Response{"503": {Description: "Not so", Content: problemContent(a)}}
	add(a, huma.Operation{OperationID: "get-version", Method: http.MethodGet, Path: "/version", Summary: "Say what answers", Tags: tags},
		func(context.Context, *struct{}) (*body[Version], error) {
			return &body[Version]{Version{Version: a.opts.Version, Commit: commit(), Go: runtime.Version(), API: "/v1", Extensions: []string{}}}, nil
		})
	add(a, huma.Operation{OperationID: "get-health", Method: http.MethodGet, Path: "/healthz", Summary: "Is the daemon well?", Tags: tags,
		Description: "503 while it is degraded: it answers reads, and refuses what it cannot do.", Responses: unready},
		func(context.Context, *struct{}) (*body[vmstate.Health], error) {
			return a.healthUnless(func(h vmstate.Health) bool { return h.Degraded }, "cannot do all of its work")
		})
	add(a, huma.Operation{OperationID: "get-readiness", Method: http.MethodGet, Path: "/readyz", Summary: "Is the daemon ready?", Tags: tags,
		Description: "503 until it has found its VMs again and the tree is mounted.", Responses: unready},
		func(context.Context, *struct{}) (*body[vmstate.Health], error) {
			return a.healthUnless(func(h vmstate.Health) bool { return !h.Ready }, "cannot serve yet")
		})
	add(a, huma.Operation{OperationID: "get-metrics", Method: http.MethodGet, Path: "/metrics", Summary: "Metrics for Prometheus", Tags: tags,
		Responses: map[string]*huma.Response{"200": {Description: "The metrics", Content: textContent("text/plain", "in Prometheus' format")}}},
		func(context.Context, *struct{}) (*huma.StreamResponse, error) {
			return &huma.StreamResponse{Body: func(hc huma.Context) {
				r, w := humachi.Unwrap(hc)
				a.svc.Metrics().ServeHTTP(w, r)
			}}, nil
		})
}

func (a *api) healthUnless(bad func(vmstate.Health) bool, cannot string) (*body[vmstate.Health], error) {
	h := a.svc.Snapshot().Health
	if !bad(h) {
		return &body[vmstate.Health]{h}, nil
	}
	why := make([]string, 0, len(h.Problems))
	for _, p := range h.Problems {
		why = append(why, p.Detail)
	}
	if len(why) == 0 {
		why = append(why, "it is starting or stopping")
	}
	return nil, vmstate.Errorf(vmstate.Unavailable, "the daemon %s: %s", cannot, strings.Join(why, "; ")).With("`qlive doctor` looks closer")
}

// commit is what the program was built from, as Go recorded it.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

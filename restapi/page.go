package restapi

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"
)

//go:embed page
var pageFiles embed.FS

// pageRoutes adds what is made for people's browsers: all of it comes from the program, nothing from elsewhere.
func (a *api) pageRoutes() {
	files := []struct{ route, file, kind string }{
		{"/", "page/index.html", "text/html; charset=utf-8"},
		{"/status.js", "page/status.js", "text/javascript; charset=utf-8"},
		{"/style.css", "page/style.css", "text/css; charset=utf-8"},
	}
	for _, f := range files {
		text, err := pageFiles.ReadFile(f.file)
		if err != nil {
			panic(err) // it is embedded
		}
		a.serve(f.route, f.kind, text)
	}
	a.serve("/openapi.json", "application/openapi+json", a.spec)
	a.serve("/docs", "text/html; charset=utf-8", docsPage(a.huma.OpenAPI()))
}

// serve adds a route for text that never changes.
func (a *api) serve(route, kind string, text []byte) {
	a.guarded.Get(route, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.Write(text) //nolint:errcheck // the client is gone
	})
}

// docsOperation is an operation as the page of routes shows it.
type docsOperation struct {
	Method, Path, Role string
	*huma.Operation
	Statuses []string
	Body     string
}

// docsPage lists the operations of doc.
func docsPage(doc *huma.OpenAPI) []byte {
	var ops []docsOperation
	for path, item := range doc.Paths {
		for method, op := range map[string]*huma.Operation{"GET": item.Get, "POST": item.Post, "DELETE": item.Delete} {
			if op != nil {
				ops = append(ops, describeOperation(method, path, op))
			}
		}
	}
	slices.SortFunc(ops, func(a, b docsOperation) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method))
	})
	var page bytes.Buffer
	t := template.Must(template.ParseFS(pageFiles, "page/docs.html"))
	if err := t.Execute(&page, map[string]any{"Info": doc.Info, "Operations": ops}); err != nil {
		panic(fmt.Sprintf("restapi: the page of routes must render: %v", err))
	}
	return page.Bytes()
}

func describeOperation(method, path string, op *huma.Operation) docsOperation {
	d := docsOperation{Method: method, Path: path, Operation: op}
	d.Role, _ = op.Extensions["x-qlive-role"].(string)
	for status := range op.Responses {
		d.Statuses = append(d.Statuses, status)
	}
	slices.Sort(d.Statuses)
	if op.RequestBody != nil {
		for kind := range op.RequestBody.Content {
			d.Body = kind
		}
	}
	return d
}

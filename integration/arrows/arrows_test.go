// Package arrows keeps the import arrows of docs/architecture.md.
package arrows

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// rooms says what the packages of a folder may import of qlive, by prefix; the most particular folder counts. A package may always import
// those below it.
func rooms() map[string][]string {
	domain := []string{"vmstate"}
	return map[string][]string{
		"vmstate":            {},
		"vmstate/stream":     {},
		"internal/proc":      {},
		"internal/qmp":       domain,
		"internal/failpoint": domain,
		"internal/relay":     {"vmstate/stream"},
		"internal":           {"vmstate", "internal"},
		"flip/memory":        domain,
		"flip/memory/move":   {"vmstate", "internal/atomicfile", "flip/memory"},
		"flip/recovery":      domain,
		"flip":               {"vmstate", "internal", "flip"},
		"restapi":            domain,
		"restapi/client":     domain,
		"fsview":             domain,
		"daemon":             {"vmstate", "internal", "flip", "restapi", "fsview"},
		"cmd":                {"vmstate", "internal", "flip", "restapi", "fsview", "daemon", "integration"},
		"integration":        {"vmstate", "internal", "flip", "restapi", "fsview", "daemon", "integration"},
	}
}

// frameworks are modules that only some rooms may use, and why.
func frameworks() map[string][]string {
	return map[string][]string{
		"github.com/hanwen/go-fuse":       {"fsview"},
		"github.com/go-chi/chi":           {"restapi"},
		"github.com/danielgtaylor/huma":   {"restapi"},
		"github.com/spf13/cobra":          {"cmd"},
		"github.com/prometheus":           {"daemon"},
		"github.com/oapi-codegen/runtime": {"restapi/client"},
		"github.com/rs/zerolog":           {"flip", "daemon", "restapi", "fsview", "cmd", "integration"},
		"go.yaml.in/yaml":                 {"daemon", "cmd", "restapi"},
	}
}

type pkg struct {
	ImportPath string
	Imports    []string
}

func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "qlive/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// below tells whether path is prefix or lies below it.
func below(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

// room is the most particular room that path lies in.
func room(path string) string {
	var best string
	for r := range rooms() {
		if below(path, r) && len(r) > len(best) {
			best = r
		}
	}
	return best
}

func TestArrows(t *testing.T) {
	all := list(t)
	if len(all) < 10 {
		t.Fatalf("go list knows only %d packages", len(all))
	}
	for _, p := range all {
		path := strings.TrimPrefix(p.ImportPath, "qlive/")
		if path == "qlive" {
			continue
		}
		r := room(path)
		if r == "" {
			t.Errorf("%s lies in no room: add it to docs/architecture.md and to this test", path)
			continue
		}
		for _, imported := range p.Imports {
			check(t, path, r, imported)
		}
	}
}

func check(t *testing.T, path, r, imported string) {
	t.Helper()
	if own, ok := strings.CutPrefix(imported, "qlive/"); ok {
		if !below(own, path) && !below(own, r) && !slices.ContainsFunc(rooms()[r], func(may string) bool { return below(own, may) }) {
			t.Errorf("%s imports %s: against the arrow cmd → daemon → {restapi, fsview, flip} → internal → vmstate", path, own)
		}
		return
	}
	for framework, may := range frameworks() {
		if strings.HasPrefix(imported, framework) && !slices.ContainsFunc(may, func(m string) bool { return below(path, m) }) {
			t.Errorf("%s imports %s, which only %v may", path, imported, may)
		}
	}
}

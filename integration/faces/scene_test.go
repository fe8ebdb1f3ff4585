package faces_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qlive/integration/guest"
	"qlive/integration/lab"
	"qlive/internal/failpoint"
	"qlive/vmstate"
)

// readers is the environment variable by which the test program runs as readers of the tree.
const readers = "QLIVE_TEST_READERS"

func TestMain(m *testing.M) {
	if dir := os.Getenv(readers); dir != "" {
		os.Exit(readTree(dir))
	}
	goleak.VerifyTestMain(m)
}

// small is what a guest verifies quickly.
func small() guest.Params { return guest.Params{FillMiB: 16, DirtyMiB: 2, VerifySecs: -1} }

// scene is a daemon with failpoints and a guest that runs.
type scene struct {
	*lab.Lab
	vm     *lab.VM
	points *failpoint.Set
	http   *http.Client
}

func newScene(t *testing.T) *scene {
	t.Helper()
	points, err := failpoint.New("")
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{Lab: lab.New(t, lab.Options{Failpoints: points}), points: points}
	s.vm = s.Boot(lab.Spec{Guest: small()})
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.Socket)
	}}
	s.http = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)
	return s
}

// tree is a path in the mounted tree.
func (s *scene) tree(path ...string) string {
	return filepath.Join(append([]string{s.Mount}, path...)...)
}

// ctl writes a command to the VM's ctl as echo does.
func (s *scene) ctl(command string) error {
	f, err := os.OpenFile(s.tree("vm1/ctl"), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(command)
	return errors.Join(err, f.Close())
}

// answer is what REST said.
type answer struct {
	*http.Response
	body []byte
}

// ask sends a request as curl would, without a content type. A header is "Name: value".
func (s *scene) ask(t *testing.T, method, path, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://qlive"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp, text}
}

// problem reads an answer that must be a problem document.
func (a answer) problem(t *testing.T, status int) (p vmstate.Problem) {
	t.Helper()
	if a.StatusCode != status || a.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("the answer is %s of type %q, want %d: %.300s", a.Status, a.Header.Get("Content-Type"), status, a.body)
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	if p.Status != status || p.Title == "" || p.Detail == "" || !strings.HasPrefix(p.Type, "urn:qlive:problem:") {
		t.Errorf("the problem is %+v", p)
	}
	return p
}

// into reads an answer of a status into a value.
func into[T any](t *testing.T, a answer, status int) (v T) {
	t.Helper()
	if a.StatusCode != status {
		t.Fatalf("the answer is %s, want %d: %s", a.Status, status, a.body)
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatalf("%v in %.300s", err, a.body)
	}
	return v
}

// begin asks for a handoff that must be accepted.
func (s *scene) begin(t *testing.T, spec vmstate.MigrationSpec) vmstate.Migration {
	t.Helper()
	spec.VM = s.vm.Name
	m, err := s.Client.Migrate(t.Context(), spec, "")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// reach waits until a migration is in a phase.
func (s *scene) reach(t *testing.T, id string, phase vmstate.Phase) (m vmstate.Migration) {
	t.Helper()
	s.Eventually("the migration is "+string(phase), func() (err error) {
		m, err = s.Client.Migration(t.Context(), id, 0)
		if err == nil && m.Phase != phase {
			if m.Phase.Ended() {
				t.Fatalf("the migration is %s, wanted %s: %+v", m.Phase, phase, m.Error)
			}
			err = fmt.Errorf("it is %s", m.Phase)
		}
		return err
	})
	return m
}

// blockAt arms a point to hold up whoever reaches it, and gives back what waits until somebody has.
func (s *scene) blockAt(t *testing.T, point string) (reached func()) {
	t.Helper()
	before := s.points.Hits(point)
	if err := s.points.Arm(point, "1*block"); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), lab.Limit)
		defer cancel()
		if err := s.points.Await(ctx, point, before+1); err != nil {
			t.Fatal(err)
		}
	}
}

// quick fails the test if f takes so long that it must have waited for something. It is no measure of speed.
func quick(t *testing.T, what string, f func()) {
	t.Helper()
	const limit = lab.Limit / 2
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(limit):
		t.Errorf("%s has not returned after %s", what, limit)
		<-done
	}
}

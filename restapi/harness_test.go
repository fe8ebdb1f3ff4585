package restapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"qlive/restapi"
	"qlive/restapi/restapitest"
	"qlive/vmstate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is the API on a real socket.
type server struct {
	t      *testing.T
	svc    *restapitest.Service
	socket string
	http   *http.Client
	scheme string // and host, of URLs
	stop   func() // ends the server and waits for it
}

// everyone is an Access that gives all the same role.
type everyone vmstate.Role

func (e everyone) Role(restapi.Peer) vmstate.Role { return vmstate.Role(e) }

// start serves svc until the test ends.
func start(t *testing.T, svc *restapitest.Service, opts restapi.Options) *server {
	t.Helper()
	if opts.Version == "" {
		opts.Version = "test"
	}
	if opts.Now == nil {
		opts.Now = restapitest.Now
	}
	if opts.Crash == nil {
		opts.Crash = func(reason any, stack []byte) { t.Errorf("a handler panicked: %v\n%s", reason, stack) }
	}
	return serve(t, svc, restapi.New(svc, opts), opts.Limits)
}

// serve serves handler, which is svc's, until the test ends.
func serve(t *testing.T, svc *restapitest.Service, handler http.Handler, limits restapi.Limits) *server {
	t.Helper()
	// Not t.TempDir: with a long test name it is longer than a socket's path may be.
	dir, err := os.MkdirTemp("", "qlive")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	l, err := restapi.Listen(socket, vmstate.Trust{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- restapi.Server{Handler: handler, Limits: limits}.Serve(ctx, l) }()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	s := &server{t: t, svc: svc, socket: socket, http: &http.Client{Transport: transport}, scheme: "http://qlive"}
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		transport.CloseIdleConnections()
	}
	t.Cleanup(func() {
		s.stop()
		svc.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return s
}

// answer is what came of a request.
type answer struct {
	t      *testing.T
	status int
	header http.Header
	body   string
}

// do sends a request; headers are "Name: value".
func (s *server) do(method, path, body string, headers ...string) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.scheme+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			r.Host = value
		}
		if r.Header.Set(name, value); value == "" {
			r.Header.Del(name)
		}
	}
	return s.send(r)
}

func (s *server) send(r *http.Request) answer {
	s.t.Helper()
	resp, err := s.http.Do(r)
	if err != nil {
		s.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	return answer{t: s.t, status: resp.StatusCode, header: resp.Header, body: string(text)}
}

// want checks the status.
func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("status is %d, want %d; body: %s", a.status, status, a.body)
	}
	return a
}

// into reads the body, which may hold nothing that v does not know.
func (a answer) into(v any) answer {
	a.t.Helper()
	dec := json.NewDecoder(bytes.NewBufferString(a.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		a.t.Fatalf("cannot read %s: %v", a.body, err)
	}
	return a
}

// problem checks that the answer is a problem document of the kind, and returns it.
func (a answer) problem(status int, kind vmstate.Kind) restapi.Refusal {
	a.t.Helper()
	a.want(status)
	var r restapi.Refusal
	a.into(&r)
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		a.t.Errorf("content type is %q", got)
	}
	if r.Status != status || r.Kind() != kind || r.Title != kind.Info().Title {
		a.t.Errorf("problem is %d %s %q, want %d %s", r.Status, r.Type, r.Title, status, kind)
	}
	if !strings.HasPrefix(r.Detail, "cannot ") && !strings.HasPrefix(r.Detail, "the daemon cannot ") {
		a.t.Errorf("detail does not begin with cannot: %q", r.Detail)
	}
	return r
}

// eventually waits until check is content, or says why it is not.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

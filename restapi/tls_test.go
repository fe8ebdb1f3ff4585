package restapi_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qlive/restapi"
	"qlive/restapi/restapitest"
	"qlive/vmstate"
)

// secureServer is the API on a port.
type secureServer struct {
	*server
	ca   *restapitest.Authority
	addr string
}

// serveTCP serves svc on a port until the test ends.
func serveTCP(t *testing.T, svc *restapitest.Service, rules ...restapi.CertificateRule) *secureServer {
	t.Helper()
	ca := restapitest.NewAuthority(t)
	l, config, hosts, err := restapi.ListenTLS("127.0.0.1:0", ca.TLS(rules...))
	if err != nil {
		t.Fatal(err)
	}
	handler := restapi.New(svc, restapi.Options{Access: restapi.Rules{Certificates: rules}, Hosts: hosts, Now: restapitest.Now, Version: "test"})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- restapi.Server{Handler: handler, TLS: config, Limits: restapi.Limits{HeaderTime: time.Second}}.Serve(ctx, l)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		svc.Close()
	})
	return &secureServer{server: &server{t: t, svc: svc}, ca: ca, addr: l.Addr().String()}
}

// as is the server as the owner of a certificate sees it; none for a client that has none.
func (s *secureServer) as(certs ...restapitest.Certificate) *server {
	config := &tls.Config{RootCAs: s.ca.Pool()}
	for _, c := range certs {
		config.Certificates = append(config.Certificates, c.Pair)
	}
	transport := &http.Transport{TLSClientConfig: config, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", s.addr)
	}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &server{t: s.t, svc: s.svc, http: &http.Client{Transport: transport}, scheme: "https://localhost"}
}

func TestTCP(t *testing.T) {
	s := serveTCP(t, restapitest.New(restapitest.VM("vm1")), restapi.CertificateRule{CommonName: "robot", Role: vmstate.RoleAdmin})
	robot := s.as(s.ca.Client("robot"))
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
	}{
		{"plain", "GET", "/vms", "", nil, 200},
		{"json", "POST", "/migrations", `{"vm":"vm1"}`, nil, 202},
		{"a form", "POST", "/migrations", `{"vm":"vm1"}`, []string{"Content-Type: application/x-www-form-urlencoded"}, 415},
		{"no type", "POST", "/migrations", `{"vm":"vm1"}`, []string{"Content-Type: "}, 415},
		{"text", "POST", "/vms/vm1/console", `ls`, []string{"Content-Type: text/plain; charset=utf-8"}, 415},
		{"bytes", "POST", "/vms/vm1/console", `ls`, []string{"Content-Type: application/octet-stream"}, 204},
		{"foreign host", "GET", "/vms", "", []string{"Host: evil.example"}, 403},
		{"foreign host, another port", "GET", "/vms", "", []string{"Host: evil.example:1"}, 403},
		{"foreign host without a dot", "GET", "/vms", "", []string{"Host: evil"}, 403},
		{"host of the certificate", "GET", "/vms", "", []string{"Host: qlive.example:8443"}, 200},
		{"localhost", "GET", "/vms", "", []string{"Host: localhost:1"}, 200},
		{"IPv6", "GET", "/vms", "", []string{"Host: [::1]:1"}, 200},
		{"foreign origin", "POST", "/vms/vm1/pause", "", []string{"Origin: http://evil.example"}, 403},
		{"origin of nobody", "POST", "/vms/vm1/pause", "", []string{"Origin: null"}, 403},
		{"own origin", "POST", "/vms/vm1/pause", "", []string{"Host: localhost:1", "Origin: http://localhost:1"}, 200},
		{"foreign referer", "GET", "/vms", "", []string{"Referer: http://evil.example/x"}, 403},
		{"own referer", "GET", "/vms", "", []string{"Host: localhost:1", "Referer: http://localhost:1/docs"}, 200},
		{"foreign site", "GET", "/vms", "", []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"own site", "GET", "/vms", "", []string{"Sec-Fetch-Site: same-origin"}, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			robot.do(c.method, c.path, c.body, c.headers...).want(c.status)
		})
	}
}

// Who comes without a good certificate does not get as far as a request.
func TestCertificates(t *testing.T) {
	ou := func(unit string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{unit} }
	}
	s := serveTCP(t, restapitest.New(restapitest.VM("vm1")),
		restapi.CertificateRule{CommonName: "root", Role: vmstate.RoleAdmin},
		restapi.CertificateRule{OrganizationalUnit: "operators", Role: vmstate.RoleOperate},
		restapi.CertificateRule{CommonName: "reader", Role: vmstate.RoleRead},
		restapi.CertificateRule{CommonName: "barred", Role: vmstate.RoleNone})
	start := `{"name":"new","binary":"/q","args":[]}`
	for _, c := range []struct {
		name               string
		cert               restapitest.Certificate
		read, operate, run int
	}{
		{"admin", s.ca.Client("root"), 200, 200, 201},
		{"operator", s.ca.Client("ada", ou("operators")), 200, 200, 403},
		{"reader", s.ca.Client("reader"), 200, 403, 403},
		{"barred", s.ca.Client("barred"), 403, 403, 403},
		{"of the authority, and of no rule", s.ca.Client("eve", ou("sales")), 403, 403, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			as := s.as(c.cert)
			as.do("GET", "/vms", "").want(c.read)
			as.do("POST", "/vms/vm1/pause", "").want(c.operate)
			if a := as.do("POST", "/vms", start).want(c.run); a.status == 403 && !strings.Contains(a.body, "tls.roles") {
				t.Errorf("the way out is missing: %s", a.body)
			}
		})
	}
	refused := func(name string, certs ...restapitest.Certificate) {
		t.Run(name, func(t *testing.T) {
			resp, err := s.as(certs...).http.Get("https://localhost/vms")
			if err == nil {
				resp.Body.Close()
				t.Errorf("answered with %s", resp.Status)
			}
		})
	}
	refused("no certificate")
	refused("of another authority", restapitest.NewAuthority(t).Client("root"))
	refused("expired", s.ca.Client("root", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))
	refused("for servers", s.ca.Client("root", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }))
	t.Run("TLS 1.2", func(t *testing.T) {
		conn, err := tls.Dial("tcp", s.addr, &tls.Config{RootCAs: s.ca.Pool(), ServerName: "localhost", MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{s.ca.Client("root").Pair}})
		if err == nil {
			conn.Close()
			t.Error("shook hands")
		}
	})
	t.Run("no TLS", func(t *testing.T) {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /vms HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if text, _ := io.ReadAll(conn); strings.Contains(string(text), "vm1") || strings.Contains(string(text), "200") {
			t.Errorf("answered with %q", text)
		}
	})
	t.Run("a handshake that never ends", func(t *testing.T) {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		closes(t, conn)
	})
}

// Handshakes that come to nothing give their places back.
func TestPlacesOfFailedHandshakes(t *testing.T) {
	s := serveTCP(t, restapitest.New(restapitest.VM("vm1")), restapi.CertificateRule{CommonName: "root", Role: vmstate.RoleAdmin})
	stranger := restapitest.NewAuthority(t).Client("root")
	for i := range 2 * restapi.DefaultLimits().PerUser {
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			_, _ = io.WriteString(conn, "no TLS at all\n")
		} else {
			_ = tls.Client(conn, &tls.Config{RootCAs: s.ca.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{stranger.Pair}}).Handshake()
		}
		conn.Close()
	}
	root := s.as(s.ca.Client("root"))
	eventually(t, func() error {
		if a := root.do("GET", "/vms", ""); a.status != 200 {
			return errors.New(a.body)
		}
		return nil
	})
}

// A certificate that runs out while its connection lives is no longer good.
func TestCertificateRunsOut(t *testing.T) {
	s := serveTCP(t, restapitest.New(restapitest.VM("vm1")), restapi.CertificateRule{CommonName: "brief", Role: vmstate.RoleAdmin})
	brief := s.as(s.ca.Client("brief", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(3 * time.Second).Truncate(time.Second) }))
	brief.do("GET", "/vms", "").want(200)
	eventually(t, func() error {
		a := brief.do("GET", "/vms", "")
		if a.status == 200 {
			return errStill
		}
		if r := a.problem(403, vmstate.Denied); !strings.Contains(r.Detail, "expired") {
			t.Errorf("refused for %q", r.Detail)
		}
		return nil
	})
}

// One certificate's idempotency keys are not another's.
func TestKeysOfCertificates(t *testing.T) {
	s := serveTCP(t, restapitest.New(restapitest.VM("vm1"), restapitest.VM("vm2")), restapi.CertificateRule{OrganizationalUnit: "x", Role: vmstate.RoleOperate})
	unit := func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{"x"} }
	a, b := s.as(s.ca.Client("same", unit)), s.as(s.ca.Client("same", unit))
	a.do("POST", "/migrations", `{"vm":"vm1"}`, "Idempotency-Key: k").want(202)
	b.do("POST", "/migrations", `{"vm":"vm2"}`, "Idempotency-Key: k").want(202)
	a.do("POST", "/migrations", `{"vm":"vm2"}`, "Idempotency-Key: k").problem(422, vmstate.Invalid)
}

// A port without TLS and certificates is never served, whoever opened it.
func TestServeRefusesPlainTCP(t *testing.T) {
	for name, config := range map[string]*tls.Config{
		"no TLS": nil, "no certificates of clients": {MinVersion: tls.VersionTLS13}, "old TLS": {ClientAuth: tls.RequireAndVerifyClientCert},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		err = restapi.Server{Handler: http.NotFoundHandler(), TLS: config}.Serve(t.Context(), l)
		if vmstate.KindOf(err) != vmstate.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckTCP(t *testing.T) {
	ca := restapitest.NewAuthority(t)
	rule := restapi.CertificateRule{CommonName: "a", Role: vmstate.RoleRead}
	good, other := ca.TLS(rule), restapitest.NewAuthority(t).Server()
	open := filepath.Join(t.TempDir(), "open.key")
	key, err := os.ReadFile(good.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(open, key, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, address string
		change        func(*restapi.TLS)
		says          string
	}{
		{"good", "127.0.0.1:8443", func(*restapi.TLS) {}, ""},
		{"neither", "", func(t *restapi.TLS) { *t = restapi.TLS{} }, ""},
		{"no address", "", func(*restapi.TLS) {}, "without listen"},
		{"no port", "127.0.0.1", func(*restapi.TLS) {}, "not HOST:PORT"},
		{"no host", ":8443", func(*restapi.TLS) {}, "not HOST:PORT"},
		{"no TLS", "127.0.0.1:8443", func(t *restapi.TLS) { *t = restapi.TLS{} }, "is not set"},
		{"no certificate", "127.0.0.1:8443", func(t *restapi.TLS) { t.Certificate = "" }, "tls.certificate is not set"},
		{"no key", "127.0.0.1:8443", func(t *restapi.TLS) { t.Key = "" }, "tls.key is not set"},
		{"no authority", "127.0.0.1:8443", func(t *restapi.TLS) { t.ClientCA = "" }, "tls.client_ca is not set"},
		{"no roles", "127.0.0.1:8443", func(t *restapi.TLS) { t.Roles = nil }, "gives no certificate a role"},
		{"a rule for everybody", "127.0.0.1:8443", func(t *restapi.TLS) { t.Roles = []restapi.CertificateRule{{Role: vmstate.RoleRead}} }, "it names no certificate"},
		{"half a fingerprint", "127.0.0.1:8443", func(t *restapi.TLS) { t.Roles = []restapi.CertificateRule{{Fingerprint: "ab:cd"}} }, "no SHA-256"},
		{"another's key", "127.0.0.1:8443", func(t *restapi.TLS) { t.Key = other.KeyFile }, "tls.certificate and tls.key"},
		{"a key for all to read", "127.0.0.1:8443", func(t *restapi.TLS) { t.Key = open }, "mode is 0644"},
		{"no such file", "127.0.0.1:8443", func(t *restapi.TLS) { t.ClientCA = "/no/such" }, "cannot read tls.client_ca"},
		{"an authority that is none", "127.0.0.1:8443", func(t *restapi.TLS) { t.ClientCA = good.Key }, "no certificate in it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := good
			c.change(&changed)
			err := restapi.CheckTCP(c.address, changed)
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "cannot ")) {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}

package restapitest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"qlive/restapi"
)

// Authority signs certificates for a test.
type Authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Certificate is one that an Authority has signed, with its key.
type Certificate struct {
	File, KeyFile string // PEM
	Fingerprint   string // SHA-256 in hexadecimal
	Pair          tls.Certificate
}

// NewAuthority makes an authority whose files lie in a folder of the test's.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, dir: t.TempDir()}
	c := a.sign("authority", &x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	a.cert, a.key = c.Pair.Leaf, c.Pair.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

// File is the authority's own certificate.
func (a *Authority) File() string { return filepath.Join(a.dir, "authority.pem") }

// Pool holds the authority.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Server signs a certificate for 127.0.0.1, localhost and the names.
func (a *Authority) Server(names ...string) Certificate {
	a.t.Helper()
	return a.sign("server", &x509.Certificate{
		Subject: pkix.Name{CommonName: "qlive"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: append([]string{"localhost"}, names...), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	})
}

// Client signs a certificate for a client; change may alter it before.
func (a *Authority) Client(name string, change ...func(*x509.Certificate)) Certificate {
	a.t.Helper()
	c := &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, f := range change {
		f(c)
	}
	return a.sign("client-"+name, c)
}

// TLS is a configuration of the API with a server's certificate and the rules.
func (a *Authority) TLS(rules ...restapi.CertificateRule) restapi.TLS {
	a.t.Helper()
	server := a.Server("qlive.example")
	return restapi.TLS{Certificate: server.File, Key: server.KeyFile, ClientCA: a.File(), Roles: rules}
}

// sign makes a certificate by the template, signed by itself for the authority's own.
func (a *Authority) sign(file string, template *x509.Certificate) Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.must(err)
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	a.must(err)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	template.NotBefore = time.Now().Add(-time.Hour)
	parent, by := template, key
	if a.cert != nil {
		parent, by = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	a.must(err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	a.must(err)
	c := Certificate{File: filepath.Join(a.dir, file+".pem"), KeyFile: filepath.Join(a.dir, file+".key")}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	a.must(os.WriteFile(c.File, certPEM, 0o644))
	a.must(os.WriteFile(c.KeyFile, keyPEM, 0o600))
	c.Pair, err = tls.X509KeyPair(certPEM, keyPEM)
	a.must(err)
	sum := sha256.Sum256(der)
	c.Fingerprint = hex.EncodeToString(sum[:])
	return c
}

func (a *Authority) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

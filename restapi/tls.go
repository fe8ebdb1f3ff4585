package restapi

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net"
	"os"
	"slices"
	"strings"

	"qlive/vmstate"
)

// TLS says how the API is served over TCP: in TLS 1.3 alone, and to clients alone that show a certificate.
type TLS struct {
	Certificate string            `yaml:"certificate"` // PEM file with the daemon's certificate and what leads to its authority
	Key         string            `yaml:"key"`         // PEM file with its key, which only its owner and group may read
	ClientCA    string            `yaml:"client_ca"`   // PEM file with the authorities that clients' certificates must come from
	Roles       []CertificateRule `yaml:"roles"`       // the first that fits counts; a certificate that none fits is turned away
}

// CertificateRule gives a role to the certificates that all of its conditions hold for; an empty one is none.
type CertificateRule struct {
	CommonName         string       `yaml:"common_name"`         // of the subject
	OrganizationalUnit string       `yaml:"organizational_unit"` // one of the subject's
	Fingerprint        string       `yaml:"fingerprint"`         // SHA-256 of the certificate in hexadecimal, with or without colons, and with or without "sha256:" before it
	Role               vmstate.Role `yaml:"role"`
}

func (r CertificateRule) fits(c *x509.Certificate) bool {
	return (r.CommonName != "" || r.OrganizationalUnit != "" || r.Fingerprint != "") &&
		(r.CommonName == "" || r.CommonName == c.Subject.CommonName) &&
		(r.OrganizationalUnit == "" || slices.Contains(c.Subject.OrganizationalUnit, r.OrganizationalUnit)) &&
		(r.Fingerprint == "" || plainHex(r.Fingerprint) == fingerprint(c))
}

// plainHex is a fingerprint as people write it, without what they put before and between its digits.
func plainHex(s string) string {
	return strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(s), "sha256:"), ":", "")
}

// CheckTCP tells what is wrong with serving on address, of the form host:port, as t says. Neither goes without the other.
func CheckTCP(address string, t TLS) error {
	if address == "" {
		if t.Certificate != "" || t.Key != "" || t.ClientCA != "" || len(t.Roles) > 0 {
			return vmstate.Errorf(vmstate.Invalid, "cannot use tls without listen").With("set listen: HOST:PORT, or leave tls out")
		}
		return nil
	}
	if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
		return vmstate.Errorf(vmstate.Invalid, "cannot listen on %q: it is not HOST:PORT", address).
			With("name the address to listen on, such as 192.0.2.1:8443; all of the host's are 0.0.0.0:8443 or [::]:8443")
	}
	for key, value := range map[string]string{"certificate": t.Certificate, "key": t.Key, "client_ca": t.ClientCA} {
		if value == "" {
			return vmstate.Errorf(vmstate.Invalid, "cannot listen on %s: tls.%s is not set", address, key).
				With("over TCP qlive speaks TLS with client certificates alone; for this host there is the unix socket")
		}
	}
	if len(t.Roles) == 0 {
		return vmstate.Errorf(vmstate.Invalid, "cannot listen on %s: tls.roles gives no certificate a role", address).
			With("add a line such as `- {common_name: NAME, role: operate}`")
	}
	for i, r := range t.Roles {
		if err := r.check(); err != nil {
			return vmstate.Errorf(vmstate.Invalid, "cannot use rule %d of tls.roles: %w", i+1, err).
				With("write such as `- {common_name: NAME, role: operate}`; conditions are common_name, organizational_unit and fingerprint")
		}
	}
	_, _, err := t.load()
	return err
}

func (r CertificateRule) check() error {
	if r.CommonName == "" && r.OrganizationalUnit == "" && r.Fingerprint == "" {
		return vmstate.Errorf(vmstate.Invalid, "it names no certificate")
	}
	if sum, err := hex.DecodeString(plainHex(r.Fingerprint)); r.Fingerprint != "" && (err != nil || len(sum) != sha256.Size) {
		return vmstate.Errorf(vmstate.Invalid, "%q is no SHA-256 in hexadecimal", r.Fingerprint)
	}
	return nil
}

// load reads the files, and gives the names that the daemon's certificate is for.
func (t TLS) load() (*tls.Config, []string, error) {
	if info, err := os.Stat(t.Key); err == nil && info.Mode().Perm()&0o027 != 0 {
		return nil, nil, vmstate.Errorf(vmstate.Denied, "cannot use the key %s: its mode is %04o", t.Key, info.Mode().Perm()).
			With("chmod u=rw,g=,o= " + t.Key)
	}
	pair, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
	if err != nil {
		return nil, nil, vmstate.Errorf(vmstate.Invalid, "cannot use tls.certificate and tls.key: %w", err).With("both are PEM files, and belong together")
	}
	authorities := x509.NewCertPool()
	text, err := os.ReadFile(t.ClientCA)
	if err != nil {
		return nil, nil, vmstate.Errorf(vmstate.Invalid, "cannot read tls.client_ca: %w", err)
	}
	if !authorities.AppendCertsFromPEM(text) {
		return nil, nil, vmstate.Errorf(vmstate.Invalid, "cannot use %s as tls.client_ca: there is no certificate in it", t.ClientCA).With("it is a PEM file")
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientCAs:    authorities,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"http/1.1"},
		// A client that comes again shows its certificate again.
		SessionTicketsDisabled: true,
	}, pair.Leaf.DNSNames, nil
}

// ListenTLS listens on address as t says, with hosts as the names that the daemon's certificate is for. The listener is for [Server]
// with this configuration.
func ListenTLS(address string, t TLS) (l net.Listener, config *tls.Config, hosts []string, err error) {
	if err := CheckTCP(address, t); err != nil {
		return nil, nil, nil, err
	}
	config, hosts, err = t.load()
	if err != nil {
		return nil, nil, nil, err
	}
	l, err = net.Listen("tcp", address)
	if err != nil {
		return nil, nil, nil, vmstate.Errorf(vmstate.Host, "cannot listen on %s: %w", address, err).With("choose another address with listen in the configuration")
	}
	return l, config, hosts, nil
}

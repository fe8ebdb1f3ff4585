package cmdline

import (
	"strconv"
	"strings"
)

// Later is a port that a QEMU can open only once the one before it has ended.
type Later struct {
	Kind LaterKind `json:"kind"`
	// Of is the id of the network backend that a rule is of, and Rule what hostfwd= says.
	Of   string `json:"of,omitempty"`
	Rule string `json:"rule,omitempty"`
	// VNC is where a display listens.
	VNC *VNCAddress `json:"vnc,omitempty"`
}

// LaterKind says what is opened.
type LaterKind string

// The kinds of what is opened later.
const (
	LaterForward LaterKind = "hostfwd"
	LaterVNC     LaterKind = "vnc"
)

// VNCAddress is where VNC listens, as QMP's display-update takes it: a SocketAddress of the type inet.
type VNCAddress struct {
	Type string `json:"type"`
	Host string `json:"host"`
	Port string `json:"port"`
	To   int    `json:"to,omitempty"`
	IPv4 *bool  `json:"ipv4,omitempty"`
	IPv6 *bool  `json:"ipv6,omitempty"`
}

// user lets pass a network of QEMU's own. What it forwards is opened later.
func (r *rewriter) user(o option, p *props) (edit, error) {
	if p.has("guestfwd") {
		return edit{}, refuse(o, "what it forwards to would be there twice", "leave guestfwd out")
	}
	if p.has("smb") || p.has("smbserver") {
		return edit{}, refuse(o, "the file server belongs to one process alone", "leave smb out")
	}
	rules := p.forwards()
	if len(rules) == 0 || !r.place.Incoming {
		return keep()
	}
	id := p.str("id")
	if id == "" {
		id = "qlive-net" + strconv.Itoa(o.at)
		p.set("id", id)
	}
	for _, rule := range rules {
		r.line.Later = append(r.line.Later, Later{Kind: LaterForward, Of: id, Rule: rule})
	}
	p.remove("hostfwd")
	return change(p.String(), "hostfwd: "+whyPortLate)
}

// forwards are the values of hostfwd, in either notation.
func (p *props) forwards() []string {
	var rules []string
	for _, q := range p.parts {
		if q.key == "hostfwd" && q.value != "" {
			rules = append(rules, q.value)
		}
	}
	for _, q := range p.nested {
		if strings.HasPrefix(q.key, "hostfwd.") && strings.HasSuffix(q.key, ".str") {
			rules = append(rules, q.value)
		}
	}
	return rules
}

// firstVNC is the port of the first VNC display (ui/vnc.c).
const firstVNC = 5900

// vncPort lets a display be without its port until that is free. QMP can open those of the first display alone.
func (r *rewriter) vncPort(o option, p *props) (edit, error) {
	at, err := vncAddress(o, p)
	if err != nil {
		return edit{}, err
	}
	if r.vncs++; r.vncs > 1 {
		return edit{}, refuse(o, "the port of a second VNC display cannot be opened later", "give it a unix socket, -vnc unix:PATH")
	}
	if !r.place.Incoming {
		return keep()
	}
	for _, key := range []string{"to", "ipv4", "ipv6"} {
		p.remove(key)
	}
	if p.on("password") && !p.has("password-secret") {
		r.warn("%s: QEMU keeps its password to itself, and it must be set anew (set_password) after each handoff", o.words())
	}
	r.line.Later = append(r.line.Later, Later{Kind: LaterVNC, VNC: &at})
	p.set("vnc", "none")
	return change(p.String(), whyPortLate)
}

// vncAddress reads HOST:DISPLAY.
func vncAddress(o option, p *props) (VNCAddress, error) {
	where := p.str("vnc")
	bad := func() (VNCAddress, error) {
		return VNCAddress{}, invalid(o, quote(where)+" is not HOST:DISPLAY", "write -vnc HOST:DISPLAY, or -vnc unix:PATH")
	}
	colon := strings.LastIndexByte(where, ':')
	if colon < 0 {
		return bad()
	}
	display, err := strconv.Atoi(where[colon+1:])
	if err != nil || display < 0 || display > 65535-firstVNC {
		return bad()
	}
	at := VNCAddress{Type: "inet", Host: strings.TrimSuffix(strings.TrimPrefix(where[:colon], "["), "]"), Port: strconv.Itoa(firstVNC + display)}
	if to, ok := p.get("to"); ok {
		if at.To, err = strconv.Atoi(to); err != nil || at.To < 0 || at.To > 65535-firstVNC {
			return bad()
		}
		at.To += firstVNC
	}
	for key, into := range map[string]**bool{"ipv4": &at.IPv4, "ipv6": &at.IPv6} {
		if v, ok := p.get(key); ok {
			on := isOn(v)
			*into = &on
		}
	}
	return at, nil
}

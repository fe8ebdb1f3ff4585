package restapi

import (
	"context"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5/middleware"

	"qlive/vmstate"
)

// retryAfter is when a client that was turned away for lack of room may come again, in seconds.
const retryAfter = "5"

type prefixKey struct{}

// guard is what every request passes before it is routed.
func (a *api) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			// net/http would swallow a panic and leave locked whatever the handler held.
			switch reason := recover(); reason {
			case nil:
			case http.ErrAbortHandler:
				panic(reason) // net/http's own way to cut a connection
			default:
				a.opts.Crash(reason, debug.Stack())
			}
		}()
		seen := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		defer a.log(seen, r, time.Now())
		h := seen.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		h.Set("Qlive-Version", a.opts.Version)
		r = unversioned(certified(r))
		if refusal := a.vet(r); refusal != nil {
			if refusal.Status == http.StatusServiceUnavailable {
				h.Set("Retry-After", retryAfter)
				h.Set("Connection", "close")
			}
			refusal.write(seen)
			return
		}
		next.ServeHTTP(seen, r)
	})
}

func (a *api) log(w middleware.WrapResponseWriter, r *http.Request, begin time.Time) {
	event := a.opts.Logger.Debug()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		event = a.opts.Logger.Info()
	}
	peer := peerOf(r.Context())
	event.Str("method", r.Method).Str("path", r.URL.Path).Int("status", w.Status()).
		Stringer("who", peer).Int32("pid", peer.PID).Dur("took", time.Since(begin)).Msg("request answered")
}

// unversioned is r for the same route at the root, if it is for one under /v1.
func unversioned(r *http.Request) *http.Request {
	rest, ok := strings.CutPrefix(r.URL.Path, "/v1")
	if !ok || rest != "" && rest[0] != '/' {
		return r
	}
	r = r.WithContext(context.WithValue(r.Context(), prefixKey{}, "/v1"))
	u := *r.URL
	u.Path = "/" + strings.TrimPrefix(rest, "/")
	if u.RawPath != "" {
		u.RawPath = "/" + strings.TrimPrefix(strings.TrimPrefix(u.RawPath, "/v1"), "/")
	}
	r.URL = &u
	return r
}

// location is path below the prefix that the request of ctx came by.
func location(ctx context.Context, path ...string) string {
	prefix, _ := ctx.Value(prefixKey{}).(string)
	for _, p := range path {
		prefix += "/" + url.PathEscape(p)
	}
	return prefix
}

// vet refuses what no route should see. It may set the content type of r.
func (a *api) vet(r *http.Request) *Refusal {
	if r.Context().Value(surplusKey{}) != nil {
		return tooMany("connection")
	}
	if err := a.vetPeer(peerOf(r.Context())); err != nil {
		return refusalOf(err)
	}
	if limit := a.opts.Limits.BodyBytes; r.ContentLength >= limit {
		// Before it is read: curl asks first (Expect: 100-continue), and is answered at once.
		return withStatus(http.StatusRequestEntityTooLarge,
			vmstate.Errorf(vmstate.Invalid, "cannot take a body of %d bytes: the limit is below %d", r.ContentLength, limit))
	}
	if err := a.vetBrowser(r); err != nil {
		return refusalOf(err)
	}
	if r.ContentLength == 0 {
		return nil
	}
	return vetContentType(r)
}

// vetPeer turns away whoever may do nothing here, whatever they ask for.
func (a *api) vetPeer(peer Peer) error {
	if c := peer.Certificate; c != nil && time.Now().After(c.NotAfter) {
		// It was good when the connection began, which may be long ago.
		return vmstate.Errorf(vmstate.Denied, "cannot take a certificate that has expired at %s", c.NotAfter.UTC().Format(time.RFC3339)).With("renew it")
	}
	if a.access.Role(peer) > vmstate.RoleNone {
		return nil
	}
	e := vmstate.Lacking("use qlive", vmstate.RoleNone, vmstate.RoleRead)
	if !peer.Local {
		e.With("use a client certificate to which tls.roles in the daemon's configuration gives a role")
	}
	return e
}

// vetBrowser refuses what a browser sends for a page that is not ours: to a TCP port, or to the socket through a port that is
// forwarded to it.
//
// A page whose own name is made to lead here (DNS rebinding) is of one origin with us to the browser, which then says no more than the name.
// So the name must be one that nobody else can own. On the socket that is any without a dot: people and programs make one up there.
func (a *api) vetBrowser(r *http.Request) error {
	local := peerOf(r.Context()).Local
	site := r.Header.Get("Sec-Fetch-Site")
	origins := slices.Concat(r.Header.Values("Origin"), r.Header.Values("Referer"))
	madeUp := local && len(origins) == 0 && !strings.Contains(r.Host, ".")
	if !madeUp && !a.knownHost(r.Host) {
		return vmstate.Errorf(vmstate.Denied, "cannot answer for the host %.100q", r.Host).
			With("use localhost or an address, or add the name to hosts in the configuration")
	}
	for _, origin := range origins {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
			return vmstate.Errorf(vmstate.Denied, "cannot take a request on behalf of %.100q", origin)
		}
	}
	if site != "" && site != "same-origin" && site != "none" {
		return vmstate.Errorf(vmstate.Denied, "cannot take a request on behalf of another site (%.20s)", site)
	}
	return nil
}

func (a *api) knownHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return host == "localhost" || slices.Contains(a.opts.Hosts, host)
}

// vetContentType takes what `curl -d` sends for JSON, on the socket. Elsewhere the types that a browser's form may
// send without asking are refused.
func vetContentType(r *http.Request) *Refusal {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.Header.Get("Content-Type") == "" {
		kind, err = "", nil
	}
	if err != nil {
		return withStatus(http.StatusUnsupportedMediaType,
			vmstate.Errorf(vmstate.Invalid, "cannot read the content type %q", r.Header.Get("Content-Type")))
	}
	switch kind {
	case "", "application/x-www-form-urlencoded":
		if peerOf(r.Context()).Local {
			r.Header.Set("Content-Type", "application/json")
			return nil
		}
	case "text/plain", "multipart/form-data":
		if peerOf(r.Context()).Local {
			return nil
		}
	default:
		return nil
	}
	return withStatus(http.StatusUnsupportedMediaType,
		vmstate.Errorf(vmstate.Invalid, "cannot take a body of content type %q", kind).With("send Content-Type: application/json, as `curl --json` does"))
}

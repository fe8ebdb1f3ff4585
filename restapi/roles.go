package restapi

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"qlive/vmstate"
)

// routeRoles says the least role for each route: the one place where this is decided. A route that is not here is refused to everybody.
// docs/security.md argues for it.
func routeRoles() map[string]vmstate.Role {
	table := map[string]vmstate.Role{}
	for role, routes := range map[vmstate.Role][]string{
		vmstate.RoleRead: {
			"GET /", "GET /docs", "GET /openapi.json", "GET /status.js", "GET /style.css",
			"GET /version", "GET /healthz", "GET /readyz", "GET /metrics", "GET /events",
			"GET /vms", "GET /vms/{vm}", "GET /vms/{vm}/regions", "GET /vms/{vm}/regions/{region}",
			"GET /vms/{vm}/console", "GET /vms/{vm}/log",
			"GET /migrations", "GET /migrations/{id}", "GET /migrations/{id}/trace",
		},
		vmstate.RoleOperate: {
			"POST /vms/{vm}/start", "POST /vms/{vm}/pause", "POST /vms/{vm}/resume", "POST /vms/{vm}/reset", "POST /vms/{vm}/powerdown",
			"POST /vms/{vm}/console", "POST /vms/{vm}/rollback", "GET /vms/{vm}/resolve",
			"POST /migrations", "POST /migrations/{id}/continue", "DELETE /migrations/{id}",
		},
		vmstate.RoleAdmin: {
			"POST /vms",              // runs a program as root, with arguments that reach any file; or takes over any QEMU of the host
			"DELETE /vms/{vm}",       // ends a guest for good, and its logs; or takes it out of everybody's reach
			"POST /vms/{vm}/resolve", // kills a QEMU that may have the guest
		},
	} {
		for _, route := range routes {
			table[route] = role
		}
	}
	return table
}

// RouteRoles is a copy of the table of routes and the least roles that may use them, by method and pattern: "GET /vms/{vm}".
func RouteRoles() map[string]vmstate.Role { return routeRoles() }

// enforce lets through who has the role that the route needs. It runs behind the router, so that the route that is judged is the one that
// is served.
func (a *api) enforce(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rctx := chi.RouteContext(r.Context())
		// A HEAD is routed as the GET whose head it asks for.
		if err := a.allow(r, rctx.RouteMethod+" "+rctx.RoutePattern()); err != nil {
			refusalOf(err).write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// allow is nil if the sender of the request may use the route.
func (a *api) allow(r *http.Request, route string) error {
	needs, known := a.roles[route]
	if !known {
		return vmstate.Errorf(vmstate.Denied, "cannot use %s: qlive does not say who may", route).With("please report it: this is a mistake in qlive")
	}
	peer := peerOf(r.Context())
	has := a.access.Role(peer)
	if has >= needs {
		return nil
	}
	e := vmstate.Lacking(r.Method+" "+r.URL.Path, has, needs)
	if peer.Certificate != nil {
		e.With("use a client certificate to which tls.roles in the daemon's configuration gives the role " + needs.String())
	}
	return e
}

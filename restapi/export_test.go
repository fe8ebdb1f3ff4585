package restapi

import (
	"net/http"

	"github.com/go-chi/chi/v5"

	"qlive/vmstate"
)

// What tests in package restapi_test may see.

// Routes are all that the router serves: "GET /vms".
func Routes() []string {
	var all []string
	walk := func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		all = append(all, method+" "+route)
		return nil
	}
	if err := chi.Walk(build(nil, Options{}).router, walk); err != nil {
		panic(err)
	}
	return all
}

// NewWithRoles is New with another table of routes.
func NewWithRoles(svc Service, opts Options, table map[string]vmstate.Role) http.Handler {
	a := build(svc, opts)
	a.roles = table
	return a.guard(a.router)
}

// Pool is a pool.
type Pool = pool

// NewPool makes one.
var NewPool = newPool

// Take takes one of its things.
func (p *pool) Take(user string, admin bool) (func(), bool) { return p.take(user, admin) }

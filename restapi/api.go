package restapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/rs/zerolog"

	"qlive/vmstate"
)

// Options of the API. The zero value serves.
type Options struct {
	Version string         // of this build
	Logger  zerolog.Logger // requests that change something at info, the others at debug
	Access  Access         // by default root and the process's own user are admin, and nobody else is let in
	Hosts   []string       // names that a request may be for, beside localhost and addresses
	Limits  Limits         // by default DefaultLimits

	// Heartbeat is how often an idle stream of events says that it is alive; 15 s by default.
	Heartbeat time.Duration
	// WriteTimeout is how long a client may take for one event; 5 s by default.
	WriteTimeout time.Duration
	// Now is the clock for uptimes; the system's by default.
	Now func() time.Time
	// Crash is called with a handler's panic and its stack, and must not return in production: the default
	// prints both and ends the process.
	Crash func(reason any, stack []byte)
}

type api struct {
	svc    Service
	opts   Options
	access Access
	roles  map[string]vmstate.Role // of each route
	keys   map[bool]*keyring       // of administrators (true) and of the others, who cannot push theirs out
	// streams are the clients that follow something.
	streams *pool
	huma    huma.API
	router  *chi.Mux
	guarded chi.Router // the router, with roles enforced: what every route is added to
	spec    []byte     // the OpenAPI document
}

// New builds the API of svc. The handler starts no goroutine of its own.
func New(svc Service, opts Options) http.Handler {
	a := build(svc, opts)
	return a.guard(a.router)
}

// OpenAPI is the document that describes the API, as it is served and as docs/openapi.json holds it.
func OpenAPI() []byte { return build(nil, Options{}).spec }

func build(svc Service, opts Options) *api {
	a := &api{svc: svc, opts: opts, access: opts.Access, roles: routeRoles(), keys: map[bool]*keyring{true: newKeyring(), false: newKeyring()}, router: chi.NewMux()}
	if a.access == nil {
		a.access = Rules{Users: vmstate.Trust{UID: uint32(os.Geteuid())}}
	}
	a.opts.Limits = opts.Limits.orDefaults()
	a.streams = newPool(a.opts.Limits.Streams, a.opts.Limits.StreamsPerUser)
	if a.opts.Heartbeat == 0 {
		a.opts.Heartbeat = 15 * time.Second
	}
	if a.opts.WriteTimeout == 0 {
		a.opts.WriteTimeout = 5 * time.Second
	}
	if a.opts.Now == nil {
		a.opts.Now = time.Now
	}
	if a.opts.Crash == nil {
		a.opts.Crash = crash
	}
	a.router.Use(middleware.GetHead)
	a.router.NotFound(a.unknownRoute)
	a.router.MethodNotAllowed(a.wrongMethod)
	a.guarded = a.router.With(a.enforce)
	a.huma = humachi.New(a.guarded, humaConfig())
	a.huma.OpenAPI().Components.Schemas.RegisterTypeAlias(typeOf[huma.ErrorModel](), typeOf[Refusal]())
	a.vmRoutes()
	a.consoleRoutes()
	a.migrationRoutes()
	a.eventRoutes()
	a.systemRoutes()
	a.spec = a.describe()
	a.pageRoutes()
	return a
}

// humaConfig is huma's default without what it adds to bodies ($schema) and the pages that load scripts from elsewhere.
func humaConfig() huma.Config {
	cfg := huma.DefaultConfig("qlive", "1")
	cfg.Info.Description = "Upgrade QEMU under running guests. Errors are RFC 9457 problems; their types are listed in docs/problems.md. " +
		"Answers may gain members: ignore the ones you do not know. Requests with members that are not listed here are refused."
	cfg.Servers = []*huma.Server{{URL: "/", Description: "as it stands"}, {URL: "/v1", Description: "the same, versioned"}}
	cfg.CreateHooks = nil
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath = "", "", ""
	cfg.RejectUnknownQueryParameters = true // a mistyped ?force= must not be taken for its absence
	cfg.Transformers = []huma.Transformer{translate}
	format := huma.Format{Marshal: marshal, Unmarshal: unmarshal}
	cfg.Formats = map[string]huma.Format{"application/json": format, "json": format}
	return cfg
}

// marshal reports only that v cannot be written as JSON. That the client is gone is no fault of ours: huma
// panics on it.
func marshal(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Write(append(body, '\n')) //nolint:errcheck // see above
	return nil
}

// add registers an operation; routeRoles says who may use it. What the handler returns as an error leaves as a problem.
func add[I, O any](a *api, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	op.MaxBodyBytes, op.BodyReadTimeout = a.opts.Limits.BodyBytes, a.opts.Limits.BodyTime
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	op.Responses["default"] = &huma.Response{Description: "A problem", Content: problemContent(a)}
	op.Extensions = map[string]any{"x-qlive-role": a.roles[op.Method+" "+op.Path].String()}
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err == nil {
			return out, nil
		}
		if r, ok := err.(*Refusal); ok {
			return nil, r
		}
		return nil, refusalOf(err)
	})
}

func (a *api) unknownRoute(w http.ResponseWriter, r *http.Request) {
	refusalOf(vmstate.Errorf(vmstate.NotFound, "cannot find %s", r.URL.Path).With("/docs lists the routes")).write(w)
}

func (a *api) wrongMethod(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	path := r.URL.RawPath
	if path == "" {
		path = r.URL.Path
	}
	for _, method := range []string{"DELETE", "GET", "PATCH", "POST", "PUT"} {
		if a.router.Match(chi.NewRouteContext(), method, path) {
			allowed = append(allowed, method)
			if method == "GET" {
				allowed = append(allowed, "HEAD")
			}
		}
	}
	methods := strings.Join(allowed, ", ")
	w.Header().Set("Allow", methods)
	err := vmstate.Errorf(vmstate.Invalid, "cannot %s %s", r.Method, r.URL.Path).
		With("it takes " + methods)
	withStatus(http.StatusMethodNotAllowed, err).write(w)
}

func crash(reason any, stack []byte) {
	fmt.Fprintf(os.Stderr, "panic in a REST handler: %v\n%s", reason, stack)
	os.Exit(2)
}

// Package restapi serves qlive's HTTP interface: VMs and migrations as JSON resources, errors as RFC 9457
// problems, changes as server-sent events, the OpenAPI document made from the Go types, and one small page.
//
//	trust := vmstate.Trust{Group: gid}
//	handler := restapi.New(service, restapi.Options{Version: "1.0", Logger: log, Access: restapi.Rules{Users: trust}})
//	listener, err := restapi.Listen("/run/qlive/qlive.sock", trust)
//	…
//	err = restapi.Server{Handler: handler}.Serve(ctx, listener)
//
// Invariants:
//
//   - Reads come from the [vmstate.Snapshot] alone and never wait for QEMU; commands go through [Service].
//   - Every answer that is not a success is a problem document, whoever refused: a handler, the
//     validation, the router, the caller's role. What net/http cannot read as a request (400, 431, 505) it answers itself.
//   - Every route stands at the root and under /v1. Who may use it is said in one table, routeRoles; a route that is not in it is refused.
//   - TCP is served in TLS 1.3 alone, to clients with a certificate that a rule gives a role.
//   - What a client can take is bounded ([Limits]), and nobody can take the part that is kept for administrators.
//   - A client that does not read its events is closed, and costs nobody else anything.
//   - A handler's panic ends the process: what it held is not known to be whole. See [Options.Crash].
//
// The package imports vmstate and nothing else of qlive. Package client, below it, is generated from
// docs/openapi.json, which is made here; after a change of the types or routes run
//
//	go generate ./restapi/...
package restapi

//go:generate go test -count=1 -run ^TestOpenAPIDocument$ . -update

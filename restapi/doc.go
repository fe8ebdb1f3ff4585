// Package restapi serves qlive's HTTP interface: VMs and migrations as JSON resources, errors as RFC 9457
// problems, changes as server-sent events, the OpenAPI document made from the Go types, and one small page.
//
//	handler := restapi.New(service, restapi.Options{Version: "1.0", Logger: log})
//	gid, err := restapi.GroupID("qlive")
//	…
//	listener, err := restapi.Listen("/run/qlive/qlive.sock", gid)
//	…
//	err = restapi.Serve(ctx, listener, handler)
//
// Invariants:
//
//   - Reads come from the [vmstate.Snapshot] alone and never wait for QEMU; commands go through [Service].
//   - Every answer that is not a success is a problem document, whoever refused: a handler, the
//     validation, the router, the caller's role.
//   - Every route stands at the root and under /v1, and names the least [Role] that may use it.
//   - A client that does not read its events is closed, and costs nobody else anything.
//   - A handler's panic ends the process: what it held is not known to be whole. See [Options.Crash].
//
// The package imports vmstate and nothing else of qlive. Package client, below it, is generated from
// docs/openapi.json, which is made here; after a change of the types or routes run
//
//	go generate ./restapi/...
package restapi

//go:generate go test -count=1 -run ^TestOpenAPIDocument$ . -update

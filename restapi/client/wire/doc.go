// Package wire is the HTTP client that oapi-codegen makes from docs/openapi.json: requests and their
// parameters, without an opinion on answers. Package client is made for people.
package wire

//go:generate go tool oapi-codegen -config oapi-codegen.yaml ../../../docs/openapi.json

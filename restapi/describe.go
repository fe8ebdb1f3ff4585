package restapi

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"qlive/vmstate"
)

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

// schemaOf is a reference to T's schema.
func schemaOf[T any](a *api) *huma.Schema {
	return a.huma.OpenAPI().Components.Schemas.Schema(typeOf[T](), true, "")
}

// jsonOf is the content of an answer that holds a T.
func jsonOf[T any](a *api) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{"application/json": {Schema: schemaOf[T](a)}}
}

// problemContent is the content of an answer that is a problem.
func problemContent(a *api) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{problemType: {Schema: schemaOf[Refusal](a)}}
}

// textContent is the content of an answer that is text.
func textContent(kind, what string) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{kind: {Schema: &huma.Schema{Type: huma.TypeString, Description: what}}}
}

// describe finishes the document, where Go's types say less than is true, and writes it.
func (a *api) describe() []byte {
	doc := a.huma.OpenAPI()
	schemas := doc.Components.Schemas.Map()
	for name, schema := range schemas {
		for _, property := range schema.Properties {
			property.Nullable = property.Nullable && property.Type != huma.TypeArray // we send [] for nothing
		}
		if request := strings.HasSuffix(name, "Spec"); !request {
			schema.AdditionalProperties = nil // answers may grow
		}
	}
	schemas["Event"].Properties["data"] = &huma.Schema{
		Description: "what the event is about, as it is after the change; absent where it is gone",
		OneOf:       []*huma.Schema{schemaOf[vmstate.VM](a), schemaOf[vmstate.Region](a), schemaOf[vmstate.Migration](a), schemaOf[vmstate.Health](a), schemaOf[vmstate.State](a)},
	}
	failure := schemas["Migration"].Properties
	failure["error"] = &huma.Schema{Description: "null unless it was undone or failed", AnyOf: []*huma.Schema{schemaOf[vmstate.Problem](a), {Type: "null"}}}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("restapi: the OpenAPI document must marshal: %v", err))
	}
	return append(text, '\n')
}

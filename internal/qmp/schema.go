package qmp

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

// Schema is what a binary says of its own monitor: which commands and events it has, and what they take and give.
// Names of types in it mean nothing; names of members do.
type Schema struct {
	entities map[string]entity // types by name, commands as "command NAME", events as "event NAME"
}

// entity is an entry of query-qmp-schema; which members it has depends on MetaType.
type entity struct {
	Name        string         `json:"name"`
	MetaType    string         `json:"meta-type"`
	ArgType     string         `json:"arg-type"`
	RetType     string         `json:"ret-type"`
	JSONType    string         `json:"json-type"`    // of a builtin
	ElementType string         `json:"element-type"` // of an array
	Values      []string       `json:"values"`       // of an enum
	Members     []schemaMember `json:"members"`      // of an object, an enum or an alternate
	Variants    []struct {
		Case string `json:"case"`
		Type string `json:"type"`
	} `json:"variants"`
}

type schemaMember struct {
	Name    string          `json:"name"`
	Type    string          `json:"type"`
	Default json.RawMessage `json:"default"` // present, as null, if the member is optional
}

func (m schemaMember) optional() bool { return m.Default != nil }

// QuerySchema reads the schema: one line of 0.2 MB, the same for all guests of a binary.
func (c *Client) QuerySchema(ctx context.Context) (*Schema, error) {
	list, err := ask[[]entity](ctx, c, "query-qmp-schema", nil)
	if err != nil {
		return nil, err
	}
	s := &Schema{entities: make(map[string]entity, len(list))}
	for _, e := range list {
		s.entities[key(e.MetaType, e.Name)] = e
	}
	return s, nil
}

func key(metaType, name string) string {
	if metaType == "command" || metaType == "event" {
		return metaType + " " + name
	}
	return name
}

// HasCommand tells whether the binary has the command.
func (s *Schema) HasCommand(name string) bool {
	_, ok := s.entities[key("command", name)]
	return ok
}

// HasEvent tells whether the binary may send the event.
func (s *Schema) HasEvent(name string) bool {
	_, ok := s.entities[key("event", name)]
	return ok
}

// HasArgument tells whether a command takes an argument. Further names lead into it: HasArgument("migrate", "channels",
// "channel-type").
func (s *Schema) HasArgument(command string, path ...string) bool {
	_, ok := s.argument(command, path)
	return ok
}

// ArgumentValues lists what an argument of an enumerated type may be; nil if it is none, or not there. So
// ArgumentValues("migrate-set-capabilities", "capabilities", "capability") are the migration capabilities.
func (s *Schema) ArgumentValues(command string, path ...string) []string {
	e, ok := s.argument(command, path)
	if !ok || e.MetaType != "enum" {
		return nil
	}
	return e.values()
}

// values of an enum. "values" is going to go, in favour of "members".
func (e entity) values() []string {
	if len(e.Values) > 0 {
		return slices.Clone(e.Values)
	}
	values := make([]string, len(e.Members))
	for i, m := range e.Members {
		values[i] = m.Name
	}
	return values
}

func (s *Schema) argument(command string, path []string) (entity, bool) {
	e, ok := s.entities[key("command", command)]
	if !ok {
		return entity{}, false
	}
	e = s.entities[e.ArgType]
	for _, name := range path {
		m, ok := s.members(e)[name]
		if !ok {
			return entity{}, false
		}
		e = s.element(m.Type)
	}
	return e, true
}

// element is a type, or of an array what it is an array of.
func (s *Schema) element(name string) entity {
	e := s.entities[name]
	for e.MetaType == "array" {
		e = s.entities[e.ElementType]
	}
	return e
}

// members of an object, of whatever variant.
func (s *Schema) members(e entity) map[string]schemaMember {
	all := make(map[string]schemaMember)
	for _, m := range e.Members {
		all[m.Name] = m
	}
	for _, v := range e.Variants {
		for name, m := range s.members(s.entities[v.Type]) {
			if _, ok := all[name]; !ok {
				m.Default = json.RawMessage("null") // only with this variant
				all[name] = m
			}
		}
	}
	return all
}

// jsonTypes are the kinds of JSON value that a type allows: "object", "array", "string", "int", "number", "boolean",
// "null"; "value" is any.
func (s *Schema) jsonTypes(name string) []string {
	e := s.entities[name]
	switch e.MetaType {
	case "builtin":
		return []string{e.JSONType}
	case "enum":
		return []string{"string"}
	case "array", "object":
		return []string{e.MetaType}
	case "alternate":
		var all []string
		for _, m := range e.Members {
			all = append(all, s.jsonTypes(m.Type)...)
		}
		return all
	}
	return []string{fmt.Sprintf("unknown type %q", name)}
}

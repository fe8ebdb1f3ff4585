package qmp

import (
	"context"
	"strings"
)

// QOMProperty is a property of an object; a child is one too.
type QOMProperty struct {
	Name        string `json:"name"`
	Type        string `json:"type"` // "child<TYPE>" for a child, "link<TYPE>" for a link
	Description string `json:"description"`
}

// Child is the type of the object that the property holds, false if it holds none.
func (p QOMProperty) Child() (string, bool) {
	rest, ok := strings.CutPrefix(p.Type, "child<")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, ">")
}

type qomListArgs struct {
	Path string `json:"path"`
}

// QOMList lists the properties of the object at path, its children among them.
func (c *Client) QOMList(ctx context.Context, path string) ([]QOMProperty, error) {
	return ask[[]QOMProperty](ctx, c, "qom-list", qomListArgs{path})
}

type qomGetArgs struct {
	Path     string `json:"path"`
	Property string `json:"property"`
}

// QOMGet decodes a property into out.
func (c *Client) QOMGet(ctx context.Context, path, property string, out any) error {
	return c.Do(ctx, "qom-get", qomGetArgs{path, property}, out)
}

type qomSetArgs struct {
	Path     string `json:"path"`
	Property string `json:"property"`
	Value    any    `json:"value"`
}

// QOMSet sets a property. It may take long: setting prealloc of a memory backend allocates all of it.
func (c *Client) QOMSet(ctx context.Context, path, property string, value any) error {
	return c.run(ctx, Command{"qom-set", qomSetArgs{path, property, value}})
}

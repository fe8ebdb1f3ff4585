package cmdline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

var errJSON = errors.New("it is no JSON object with double-quoted names")

// parseJSON reads an object. QEMU also takes single quotes; those are refused here.
func parseJSON(value string) (*props, error) {
	dec := json.NewDecoder(strings.NewReader(value))
	dec.UseNumber()
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, errJSON
	}
	p := &props{json: true}
	for dec.More() {
		tok, err := dec.Token()
		key, ok := tok.(string)
		if err != nil || !ok {
			return nil, errJSON
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, fmt.Errorf("%w: %q has no value", errJSON, key)
		}
		if p.hasPart(key) {
			return nil, fmt.Errorf("it names %q twice", key)
		}
		text, nested, err := flatten(key, raw)
		if err != nil {
			return nil, err
		}
		p.parts = append(p.parts, part{raw: string(raw), key: key, value: text})
		p.nested = append(p.nested, nested...)
	}
	if _, err := dec.Token(); err != nil {
		return nil, errJSON
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return p, nil
}

func (p *props) hasPart(key string) bool {
	for _, q := range p.parts {
		if q.key == key {
			return true
		}
	}
	return false
}

// flatten gives a JSON value's text, and what lies inside it under keys with dots, as QEMU's keyval notation has
// them (addr.type, hostfwd.0.str).
func flatten(key string, raw json.RawMessage) (string, []part, error) {
	var v any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return "", nil, errJSON
	}
	return scalar(v), walk(key, v, nil, true), nil
}

// walk lists the scalars below v.
func walk(key string, v any, out []part, top bool) []part {
	switch v := v.(type) {
	case map[string]any:
		for k, w := range v {
			out = walk(key+"."+k, w, out, false)
		}
	case []any:
		for i, w := range v {
			out = walk(key+"."+strconv.Itoa(i), w, out, false)
		}
	default:
		if !top {
			out = append(out, part{key: key, value: scalar(v)})
		}
	}
	return out
}

// scalar is v as QEMU's other notation writes it; empty for objects and lists.
func scalar(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		if v {
			return "on"
		}
		return "off"
	case json.Number:
		return v.String()
	}
	return ""
}

// jsonString writes the object anew; members that were not changed keep their bytes.
func (p *props) jsonString() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, q := range p.parts {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(q.key)
		if err != nil {
			key = []byte(strconv.Quote(q.key)) // cannot happen: a string always marshals
		}
		b.Write(key)
		b.WriteByte(':')
		b.WriteString(q.raw)
	}
	b.WriteByte('}')
	return b.String()
}

package cmdline

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// props are the properties in an option's value, in their order, in either of QEMU's two notations:
//
//	driver,key=value,flag       the comma stands doubled inside a value
//	{"driver": …, "key": value} for -object, -device, -netdev, -blockdev and a few more
//
// A part that nobody changes keeps its bytes.
type props struct {
	implied string // key of a first part without "=", empty if there is none
	json    bool
	parts   []part
	nested  []part // of JSON: what lies deeper, its key with dots
}

type part struct {
	raw   string // as it stands in the value; of JSON, the member's value
	key   string
	value string // unescaped; of a JSON string its text, else the JSON text
}

// parseProps reads value; implied is the key of a first part that has none.
func parseProps(value, implied string) (*props, error) {
	if strings.HasPrefix(value, "{") {
		return parseJSON(value)
	}
	p := &props{implied: implied}
	for i, raw := range splitCommas(value) {
		p.parts = append(p.parts, parsePart(raw, implied, i == 0))
	}
	return p, nil
}

// splitCommas cuts s at its single commas; doubled ones stay as they are.
func splitCommas(s string) []string {
	var parts []string
	start := 0
	for i := 0; i < len(s); i++ {
		if s[i] != ',' {
			continue
		}
		if i+1 < len(s) && s[i+1] == ',' {
			i++
			continue
		}
		parts = append(parts, s[start:i])
		start = i + 1
	}
	if start < len(s) || len(parts) == 0 {
		parts = append(parts, s[start:])
	}
	return parts
}

func parsePart(raw, implied string, first bool) part {
	key, value, ok := strings.Cut(raw, "=")
	// An "=" behind a doubled comma belongs to a value, not to a key.
	if ok && !strings.Contains(key, ",,") {
		return part{raw: raw, key: key, value: unescape(value)}
	}
	if first && implied != "" {
		return part{raw: raw, key: implied, value: unescape(raw)}
	}
	// QEMU's old boolean shorthand: server, nowait.
	if name, no := strings.CutPrefix(raw, "no"); no && name != "" {
		return part{raw: raw, key: name, value: "off"}
	}
	return part{raw: raw, key: raw, value: "on"}
}

func unescape(s string) string { return strings.ReplaceAll(s, ",,", ",") }
func escape(s string) string   { return strings.ReplaceAll(s, ",", ",,") }

// get is the value of key, the last one if it stands there twice, as QEMU has it.
func (p *props) get(key string) (string, bool) {
	for _, list := range [][]part{p.parts, p.nested} {
		for _, q := range slices.Backward(list) {
			if q.key == key {
				return q.value, true
			}
		}
	}
	return "", false
}

// str is the value of key, empty if it is not there.
func (p *props) str(key string) string {
	v, _ := p.get(key)
	return v
}

// on tells whether the boolean key is there and on.
func (p *props) on(key string) bool {
	v, ok := p.get(key)
	return ok && isOn(v)
}

func isOn(v string) bool {
	switch strings.ToLower(v) {
	case "on", "yes", "true", "y":
		return true
	}
	return false
}

// has tells whether key, or a member of it such as key.0.str, is there.
func (p *props) has(key string) bool {
	under := func(q part) bool { return q.key == key || strings.HasPrefix(q.key, key+".") }
	return slices.ContainsFunc(p.parts, under) || slices.ContainsFunc(p.nested, under)
}

// set gives key the value, in its place if it is there and at the end if not. In JSON the value is a string,
// or a boolean where the value is on or off.
func (p *props) set(key, value string) { p.put(key, p.make(key, value)) }

// setNumber is set for a number, which is one in JSON as well.
func (p *props) setNumber(key string, n uint64) {
	q := p.make(key, strconv.FormatUint(n, 10))
	if p.json {
		q.raw = q.value
	}
	p.put(key, q)
}

func (p *props) put(key string, q part) {
	done := false
	for i := range p.parts {
		old := &p.parts[i]
		if old.key != key {
			continue
		}
		if !p.json && i == 0 && key == p.implied && !strings.HasPrefix(old.raw, key+"=") {
			old.raw, old.value = escape(q.value), q.value
		} else {
			*old = q
		}
		done = true
	}
	if !done {
		p.parts = append(p.parts, q)
	}
}

func (p *props) make(key, value string) part {
	if !p.json {
		return part{raw: key + "=" + escape(value), key: key, value: value}
	}
	switch value {
	case "on":
		return part{raw: "true", key: key, value: "true"}
	case "off":
		return part{raw: "false", key: key, value: "false"}
	}
	raw, err := json.Marshal(value)
	if err != nil {
		raw = []byte(strconv.Quote(value)) // cannot happen: a string always marshals
	}
	return part{raw: string(raw), key: key, value: value}
}

// remove takes key away, with its members, and tells whether it was there.
func (p *props) remove(key string) bool {
	n := len(p.parts)
	p.parts = slices.DeleteFunc(p.parts, func(q part) bool {
		return q.key == key || strings.HasPrefix(q.key, key+".")
	})
	return len(p.parts) != n
}

// String is the value with its changes.
func (p *props) String() string {
	if p.json {
		return p.jsonString()
	}
	raws := make([]string, len(p.parts))
	for i, q := range p.parts {
		raws[i] = q.raw
	}
	return strings.Join(raws, ",")
}

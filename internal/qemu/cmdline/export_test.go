package cmdline

// ParseSize is parseSize.
func ParseSize(s string, unit uint64) (uint64, error) { return parseSize(s, unit) }

// Props reads value and gives what key is, the value with key set to set, and the value with key removed.
func Props(value, implied, key, set string) (got, changed, removed string, err error) {
	p, err := parseProps(value, implied)
	if err != nil {
		return "", "", "", err
	}
	got = p.str(key)
	p.set(key, set)
	changed = p.String()
	p.remove(key)
	return got, changed, p.String(), nil
}

// SameProps reads value and writes it again.
func SameProps(value, implied string) (string, error) {
	p, err := parseProps(value, implied)
	if err != nil {
		return "", err
	}
	return p.String(), nil
}

package proc

// OpenSlowPagemap is OpenPagemap on a kernel before 6.7.
func OpenSlowPagemap(pid int) (*Pagemap, error) {
	p, err := OpenPagemap(pid)
	if err == nil {
		p.slow = true
	}
	return p, err
}

var ReadPoolsFrom = readPools

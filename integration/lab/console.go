package lab

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// followFiles follows what a guest writes on its console by reading the files of its generations, one after the other.
func (l *Lab) followFiles(vm string) (io.ReadCloser, error) {
	return &consoleFiles{dir: filepath.Join(l.RunDir(), "vms", vm), end: make(chan struct{})}, nil
}

// consoleFiles joins the console's files of all generations of a guest. A generation whose file is empty has never run the guest so
// far; once a later one has something, the earlier ones have all that they will ever have.
type consoleFiles struct {
	dir  string
	at   int   // number of the generation that is read
	from int64 // read of its file so far

	once sync.Once
	end  chan struct{}
}

// look is how long to wait for more.
const look = 2 * time.Millisecond

// Read waits until there is something, or Close.
func (c *consoleFiles) Read(buf []byte) (int, error) {
	for {
		later, found := c.later() // before the look at the present one, whose last bytes were written before the first ones of that
		if n := c.readAt(buf); n > 0 {
			return n, nil
		}
		if found {
			c.at, c.from = later, 0
			continue
		}
		select {
		case <-c.end:
			return 0, io.EOF
		case <-time.After(look):
		}
	}
}

// Close ends the reading.
func (c *consoleFiles) Close() error {
	c.once.Do(func() { close(c.end) })
	return nil
}

func (c *consoleFiles) readAt(buf []byte) int {
	for _, path := range c.files(c.at) {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		n, _ := f.ReadAt(buf, c.from) // EOF is no more for now
		f.Close()
		c.from += int64(n)
		return n
	}
	return 0
}

func (c *consoleFiles) files(generation int) []string {
	list, _ := filepath.Glob(filepath.Join(c.dir, "g"+strconv.Itoa(generation), "*.out")) // the pattern is right
	return list
}

// later is the next generation in which the guest has written something.
func (c *consoleFiles) later() (int, bool) {
	dirs, _ := filepath.Glob(filepath.Join(c.dir, "g*")) // the pattern is right
	var numbers []int
	for _, dir := range dirs {
		if n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "g")); err == nil && n > c.at {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		for _, path := range c.files(n) {
			if info, err := os.Stat(path); err == nil && info.Size() > 0 {
				return n, true
			}
		}
	}
	return 0, false
}

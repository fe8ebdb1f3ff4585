package daemon

import (
	"reflect"
	"slices"
	"strings"
	"sync"

	"qlive/vmstate"
)

// condition is how the daemon is: whether it is ready, and what is wrong, by subject. A subject's problems are set and cleared as a whole by
// whoever looks after it, and the daemon is degraded while any has one: it answers reads, and refuses what it cannot do.
type condition struct {
	registry *registry

	mu       sync.Mutex
	ready    bool
	problems map[string][]vmstate.Problem
}

func newCondition(r *registry) *condition {
	return &condition{registry: r, problems: make(map[string][]vmstate.Problem)}
}

// setReady says that the daemon serves.
func (c *condition) setReady() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready = true
	c.publishLocked()
}

// set says what is wrong with a subject, such as "run directory"; no error that is not nil means that nothing is.
func (c *condition) set(subject string, errs ...error) {
	var problems []vmstate.Problem
	for _, err := range errs {
		if err != nil {
			problems = append(problems, *vmstate.ProblemOf(err))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if reflect.DeepEqual(problems, c.problems[subject]) {
		return
	}
	if c.problems[subject] = problems; len(problems) == 0 {
		delete(c.problems, subject)
	}
	c.publishLocked()
}

func (c *condition) publishLocked() {
	var subjects []string
	for s := range c.problems {
		subjects = append(subjects, s)
	}
	slices.SortFunc(subjects, strings.Compare)
	h := vmstate.Health{Ready: c.ready, Degraded: len(subjects) > 0}
	for _, s := range subjects {
		h.Problems = append(h.Problems, c.problems[s]...)
	}
	c.registry.putHealth(h)
}

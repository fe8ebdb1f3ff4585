package failpoint

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// forever is the count of a term that has none.
const forever = math.MaxInt

type action string

const (
	off        action = "off"
	failing    action = "error"
	delay      action = "delay"
	block      action = "block"
	panicking  action = "panic"
	exit       action = "exit"
	stop       action = "stop"
	kill       action = "kill"
	callingOut action = "func" // by Set.Func only
)

// term is one thing that a point does, and how often it still does it.
type term struct {
	count int
	do    action
	text  string        // of error
	wait  time.Duration // of delay
	code  int           // of exit
	call  func() error  // of func
}

// parse reads a specification into terms by name.
func parse(spec string) (map[string][]term, error) {
	points := make(map[string][]term)
	for _, point := range split(spec, ";") {
		if strings.TrimSpace(point) == "" {
			continue
		}
		name, actions, ok := strings.Cut(point, "=")
		name = strings.TrimSpace(name)
		if !ok || name == "" {
			return nil, fmt.Errorf("cannot read failpoint %q: it is not NAME=TERM", strings.TrimSpace(point))
		}
		if _, ok := points[name]; ok {
			return nil, fmt.Errorf("cannot read failpoint %s: it is there twice", name)
		}
		terms, err := parseTerms(actions)
		if err != nil {
			return nil, fmt.Errorf("cannot read failpoint %s: %w", name, err)
		}
		points[name] = terms
	}
	return points, nil
}

func parseTerms(text string) ([]term, error) {
	var terms []term
	for _, one := range split(text, "->") {
		t, err := parseTerm(strings.TrimSpace(one))
		if err != nil {
			return nil, err
		}
		if n := len(terms); n > 0 && terms[n-1].count == forever {
			return nil, fmt.Errorf("%q can never happen: the term before it has no count", strings.TrimSpace(one))
		}
		terms = append(terms, t)
	}
	return terms, nil
}

// split cuts text at sep, except within parentheses.
func split(text, sep string) []string {
	var parts []string
	depth, start := 0, 0
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '(':
			depth++
		case text[i] == ')':
			depth--
		case depth == 0 && strings.HasPrefix(text[i:], sep):
			parts = append(parts, text[start:i])
			start = i + len(sep)
			i = start - 1
		}
	}
	return append(parts, text[start:])
}

func parseTerm(text string) (term, error) {
	t := term{count: forever}
	rest := text
	if count, after, ok := strings.Cut(text, "*"); ok && !strings.Contains(count, "(") {
		n, err := strconv.Atoi(strings.TrimSpace(count))
		if err != nil || n < 1 {
			return t, fmt.Errorf("%q is no count", count)
		}
		t.count, rest = n, strings.TrimSpace(after)
	}
	name, argument, hasArgument := strings.Cut(rest, "(")
	if hasArgument {
		var closed bool
		if argument, closed = strings.CutSuffix(argument, ")"); !closed {
			return t, fmt.Errorf("%q lacks a closing parenthesis at its end", text)
		}
	}
	t.do = action(strings.TrimSpace(name))
	return t, t.setArgument(argument, hasArgument)
}

// setArgument reads what stands in the parentheses of an action.
func (t *term) setArgument(argument string, given bool) (err error) {
	switch t.do {
	case off, block, panicking, stop, kill:
		if given {
			return fmt.Errorf("%s takes no argument", t.do)
		}
		return nil
	case failing:
		t.text = argument
	case delay:
		if t.wait, err = time.ParseDuration(argument); err == nil && t.wait < 0 {
			err = fmt.Errorf("%s is negative", argument)
		}
	case exit:
		if t.code, err = strconv.Atoi(argument); err == nil && (t.code < 0 || t.code > 255) {
			err = fmt.Errorf("%s is no exit code", argument)
		}
	default:
		return fmt.Errorf("unknown action %q", t.do)
	}
	if !given {
		return fmt.Errorf("%s needs an argument", t.do)
	}
	return err
}

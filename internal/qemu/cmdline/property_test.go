package cmdline_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"qlive/internal/qemu/cmdline"
	"qlive/vmstate"
)

// written gives back from a line what the user wrote.
func written(l *cmdline.Line) []string {
	var args []string
	for _, a := range l.Args {
		switch {
		case a.Dropped || a.Was != "":
			args = append(args, a.Was)
		case a.Why == "":
			args = append(args, a.Value)
		}
	}
	return args
}

// check is what must hold of any line.
func check(tb interface {
	Helper()
	Errorf(string, ...any)
}, args []string, f cmdline.Facts) {
	tb.Helper()
	one, err := cmdline.Rewrite(args, f, first())
	if err != nil {
		if _, ok := errors.AsType[*vmstate.Error](err); !ok || vmstate.KindOf(err) == vmstate.Internal {
			tb.Errorf("%q is refused by %v", args, err)
		}
		return
	}
	again, err := cmdline.Rewrite(args, f, first())
	if diff := cmp.Diff(one, again); err != nil || diff != "" {
		tb.Errorf("%q is rewritten in two ways: %v\n%s", args, err, diff)
	}
	if got := written(one); !slices.Equal(got, args) {
		tb.Errorf("the user's words are lost:\nwrote  %q\nbecame %q", args, got)
	}
	for i, r := range one.Regions {
		if r.FD != 3+i || r.SizeBytes == 0 || r.ID == "" || r.Block == "" {
			tb.Errorf("%q gives the region %+v in place %d", args, r, i)
		}
	}
	two, err := cmdline.Rewrite(args, f, second())
	if err != nil {
		if vmstate.KindOf(err) != vmstate.Incompatible {
			tb.Errorf("%q is accepted once, then refused: %v", args, err)
		}
		return
	}
	if got := written(two); !slices.Equal(got, args) {
		tb.Errorf("the user's words are lost later:\nwrote  %q\nbecame %q", args, got)
	}
	sameButPlaces(tb, args, one, two)
}

// sameButPlaces compares the lines of two generations.
func sameButPlaces(tb interface {
	Helper()
	Errorf(string, ...any)
}, args []string, one, two *cmdline.Line) {
	tb.Helper()
	all := strings.Join(args, " ")
	if strings.Contains(all, "kernel,") || strings.Contains(all, "runas") || strings.Contains(all, "run-with") || strings.Contains(all, "loadvm") || strings.Contains(all, "host-nodes") || strings.Contains(all, "policy") || strings.Contains(all, first().Dir) {
		return // these differ, as their reasons say
	}
	if held, err := cmdline.Holdings(one.Argv(), nil); err != nil || len(held)+len(two.Later) > 0 {
		handedOn(tb, args, one, two)
		return
	}
	moved := two.Argv()
	for i := range moved {
		moved[i] = strings.ReplaceAll(moved[i], second().Dir, first().Dir)
	}
	if diff := cmp.Diff(append(one.Argv(), "-incoming", "defer"), moved); diff != "" {
		tb.Errorf("two generations differ:\n%s", diff)
	}
	if diff := cmp.Diff(one.Regions, two.Regions); diff != "" {
		tb.Errorf("two generations have other RAM:\n%s", diff)
	}
}

// handedOn is what must hold of a line that gets descriptors: it holds the same things as the first, each by a number of its own behind those of
// its RAM.
func handedOn(tb interface {
	Helper()
	Errorf(string, ...any)
}, args []string, one, two *cmdline.Line) {
	tb.Helper()
	has, err := cmdline.Holdings(one.Argv(), nil)
	gets, err2 := cmdline.Holdings(two.Argv(), nil)
	if err != nil || err2 != nil || len(has) != len(gets) {
		tb.Errorf("%q holds %+v, %v, and then %+v, %v", args, has, err, gets, err2)
		return
	}
	next := 3 + len(two.Regions)
	for i, h := range gets {
		if h.Kind != has[i].Kind || h.Count != has[i].Count || len(h.FDs) != h.Count || h.Script {
			tb.Errorf("%q holds %+v, and then %+v", args, has[i], h)
		}
		for _, fd := range h.FDs {
			if fd != next {
				tb.Errorf("%q gets descriptor %d, and the next is %d", args, fd, next)
			}
			next++
		}
	}
	if diff := cmp.Diff(one.Regions, two.Regions); diff != "" {
		tb.Errorf("two generations have other RAM:\n%s", diff)
	}
}

// pieces are options as people write them, out of all the golden lines.
func pieces(tb testing.TB) [][]string {
	var all [][]string
	add := func(args []string) {
		for i := 0; i < len(args); i++ {
			if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				all = append(all, args[i:i+2])
				i++
				continue
			}
			all = append(all, args[i:i+1])
		}
	}
	lines := cases(tb, "accepted")
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		add(lines[name])
	}
	field := cases(tb, "field")
	for _, name := range handed() {
		add(field[name])
	}
	for _, name := range slices.Sorted(maps.Keys(refused())) {
		add(strings.Split(refused()[name], " "))
	}
	return all
}

func TestAnyMixture(t *testing.T) {
	all := pieces(t)
	f := facts(t, nil)
	rapid.Check(t, func(t *rapid.T) {
		var args []string
		for _, piece := range rapid.SliceOfN(rapid.SampledFrom(all), 0, 12).Draw(t, "pieces") {
			args = append(args, piece...)
		}
		check(t, args, f)
	})
}

// handed are the lines of the field that hold what is handed on.
func handed() []string { return []string{"hand-ports", "hand-taps"} }

func TestHandedLinesHold(t *testing.T) {
	for _, name := range handed() {
		args := cases(t, "field")[name]
		t.Run(name, func(t *testing.T) { check(t, args, facts(t, args)) })
	}
}

func TestGoldenLinesHold(t *testing.T) {
	for name, args := range cases(t, "accepted") {
		t.Run(name, func(t *testing.T) { check(t, args, facts(t, args)) })
	}
}

func FuzzRewrite(f *testing.F) {
	for _, args := range cases(f, "accepted") {
		f.Add(strings.Join(args, "\n"))
	}
	for _, line := range refused() {
		f.Add(strings.ReplaceAll(line, " ", "\n"))
	}
	known := facts(f, nil)
	f.Fuzz(func(t *testing.T, text string) {
		var args []string
		if text != "" {
			args = strings.Split(text, "\n")
		}
		check(t, args, known)
		cmdline.Paths(args)
		if _, err := cmdline.ResolveMachine(args, machines()); err != nil {
			vmstate.ProblemOf(err)
		}
	})
}

package recovery

import (
	"fmt"
	"slices"
	"strings"
)

// Markdown draws the table for people: within a phase the first row that fits counts.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| last record | and | source | target | next | because |\n|---|---|---|---|---|---|\n")
	for _, r := range Table() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | `%s` | %s |\n", phases(r), conditions(r), sights(r.Source), sights(r.Target), r.Do, r.Because)
	}
	return b.String()
}

func phases(r Row) string {
	var names []string
	for _, p := range r.Phases {
		names = append(names, "`"+string(p)+"`")
	}
	text := strings.Join(names, ", ")
	if r.NeverRan == Yes {
		text += ", never ran"
	}
	if r.Resolve != Undecided {
		text += ", resolve to " + string(r.Resolve)
	}
	return text
}

func conditions(r Row) string {
	var all []string
	for _, c := range []struct {
		is      Tri
		yes, no string
	}{
		{r.Ran, "the guest ran", "the guest stood"},
		{r.Restarts, "way `live`", "not way `live`"},
		{r.Stranger, "a stranger maps the RAM", "no stranger maps the RAM"},
		{r.Moved, "RAM has been moved", "no RAM has been moved"},
	} {
		switch c.is {
		case Yes:
			all = append(all, c.yes)
		case No:
			all = append(all, c.no)
		}
	}
	if r.Pages != nil {
		var names []string
		for _, p := range r.Pages {
			names = append(names, string(p))
		}
		all = append(all, "pages "+strings.Join(names, " or "))
	}
	return strings.Join(all, ", ")
}

func sights(list []Sight) string {
	switch {
	case list == nil:
		return "any"
	case slices.Equal(list, gone()):
		return "gone"
	case slices.Equal(list, alive()):
		return "alive"
	}
	var names []string
	for _, s := range list {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}

package fsview

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode"

	"qlive/vmstate"
)

// abi is the version of what docs/tree.md promises. It rises when a promise is broken, not when one is added.
const abi = "1"

// timeFormat is RFC 3339 in UTC with microseconds.
const timeFormat = "2006-01-02T15:04:05.000000Z"

// The tables below are the tree's files with a text of their own. An empty value reads as none.

func rootFields() []field[*vmstate.Snapshot] {
	type s = *vmstate.Snapshot
	return []field[s]{
		{"abi", func(s) string { return abi }},
		{"version", func(s s) string { return line(s.Version) }},
		{"health", func(s s) string { return healthText(s.Health) }},
	}
}

// vmNow is a VM at a time, since its uptime goes on while nothing is published.
type vmNow struct {
	*vmstate.VM
	now time.Time
}

func (v vmNow) uptime() int64 {
	if v.PID == 0 || v.StartedAt.IsZero() {
		return v.UptimeS
	}
	return max(0, int64(v.now.Sub(v.StartedAt)/time.Second))
}

func vmFields() []field[vmNow] {
	type v = vmNow
	return []field[v]{
		{"status", func(v v) string { return line(string(v.Status)) }},
		{"pid", func(v v) string { return positive(v.PID) }},
		{"generation", func(v v) string { return strconv.Itoa(v.Generation) }},
		{"qemu_version", func(v v) string { return line(v.QEMU.Version) }},
		{"qemu_binary", func(v v) string { return line(v.QEMU.Binary) }},
		{"outdated", func(v v) string { return flag(v.QEMU.Outdated) }},
		{"machine", func(v v) string { return line(v.Machine) }},
		{"ram_bytes", func(v v) string { return count(v.RAMBytes) }},
		{"restart", func(v v) string { return line(string(v.Restart.OrNever())) }},
		{"autostart", func(v v) string { return flag(v.Autostart) }},
		{"restarts", func(v v) string { return strconv.Itoa(v.Restarts) }},
		{"uptime_seconds", func(v v) string { return strconv.FormatInt(v.uptime(), 10) }},
		{"state.json", func(v v) string {
			vm := *v.VM
			vm.UptimeS = v.uptime()
			return jsonText(vm)
		}},
	}
}

func regionFields() []field[*vmstate.Region] {
	type r = *vmstate.Region
	return []field[r]{
		{"backing", func(r r) string { return line(string(r.Backing)) }},
		{"size_bytes", func(r r) string { return count(r.SizeBytes) }},
		{"page_bytes", func(r r) string { return count(r.PageBytes) }},
		{"inode", func(r r) string { return count(r.Inode) }},
		{"owner_pid", func(r r) string { return positive(r.OwnerPID) }},
		{"state", func(r r) string { return line(string(r.State)) }},
		{"progress", func(r r) string { return strconv.Itoa(r.Progress) }},
		{"done_bytes", func(r r) string { return count(r.DoneBytes) }},
		{"total_bytes", func(r r) string { return count(r.TotalBytes) }},
		{"mapped_bytes", func(r r) string { return count(r.MappedBytes) }},
		{"populated_bytes", func(r r) string { return count(r.PopulatedBytes) }},
		{"flipped_bytes", func(r r) string { return count(r.FlippedBytes) }},
		{"released_bytes", func(r r) string { return count(r.ReleasedBytes) }},
		{"note", func(r r) string { return line(r.Note) }},
	}
}

func migrationFields() []field[migrationFolder] {
	type m = migrationFolder
	// of is a field that only a migration has.
	of := func(value func(*vmstate.Migration) string) func(m) string {
		return func(m m) string {
			if m.Migration == nil {
				return ""
			}
			return value(m.Migration)
		}
	}
	type mig = vmstate.Migration
	return []field[m]{
		{"id", of(func(m *mig) string { return line(m.ID) })},
		{"vm", of(func(m *mig) string { return line(m.VM) })},
		{"phase", of(func(m *mig) string { return line(string(m.Phase)) })},
		{"mode", of(func(m *mig) string { return line(string(m.Mode)) })},
		{"way", of(func(m *mig) string { return line(string(m.Way)) })},
		{"progress", of(func(m *mig) string { return strconv.Itoa(m.Progress) })},
		{"pause_us", of(func(m *mig) string { return measured(m.PauseUS) })},
		{"qemu_pause_us", of(func(m *mig) string { return measured(m.QEMUPause) })},
		{"total_us", of(func(m *mig) string { return strconv.FormatInt(m.TotalUS, 10) })},
		{"error", errorText},
		{"warnings", of(func(m *mig) string { return lines(m.Warnings) })},
		{"log", of(func(m *mig) string { return journal(m.Log) })},
		{"state.json", func(m m) string { return jsonText(m.Migration) }},
	}
}

// errorText is what the VM refused last, else what went wrong in the migration.
func errorText(m migrationFolder) string {
	switch {
	case m.refused != nil:
		return problemText(m.refused.problem) + "\nrefused: " + line(m.refused.line) +
			"\nat: " + m.refused.at.UTC().Format(timeFormat)
	case m.Migration != nil && m.Error != nil:
		return problemText(m.Error)
	}
	return ""
}

// problemText is a sentence on the first line, then one line "key: value" for each thing more that is known.
func problemText(p *vmstate.Problem) string {
	var b strings.Builder
	b.WriteString(line(p.Detail))
	add := func(key, value string) {
		if value != "" {
			b.WriteString("\n" + key + ": " + line(value))
		}
	}
	add("kind", string(p.Kind()))
	add("step", p.Step)
	for _, words := range p.QEMU {
		add("qemu", words)
	}
	add("remedy", p.Remedy)
	return b.String()
}

func healthText(h vmstate.Health) string {
	word := "ok"
	switch {
	case !h.Ready:
		word = "starting"
	case h.Degraded:
		word = "degraded"
	}
	all := []string{word}
	for _, p := range h.Problems {
		all = append(all, p.Detail)
	}
	return lines(all)
}

func journal(log []vmstate.LogLine) string {
	all := make([]string, len(log))
	for i, l := range log {
		all[i] = l.At.UTC().Format(timeFormat) + " " + l.Text
	}
	return lines(all)
}

// line is s on one line: control characters become blanks.
func line(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

func lines(all []string) string {
	clean := make([]string, len(all))
	for i, s := range all {
		clean[i] = line(s)
	}
	return strings.Join(clean, "\n")
}

func count(n uint64) string { return strconv.FormatUint(n, 10) }

func positive(n int) string {
	if n <= 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func measured(us *int64) string {
	if us == nil {
		return ""
	}
	return strconv.FormatInt(*us, 10)
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// jsonText is v as REST would give it, indented.
func jsonText(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		// Only a time beyond the year 9999 could do this: say so where the value should stand.
		return jsonText(vmstate.ProblemOf(err))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// render is the whole text of a file: none where there is no value, and a newline at the end.
func render(value text) []byte {
	s := value()
	if s == "" {
		s = "none"
	}
	return append([]byte(s), '\n')
}

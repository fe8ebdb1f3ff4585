package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"

	"qlive/vmstate"
)

// items is a collection as REST has it.
type items[T any] struct {
	Items []T `json:"items"`
}

// printed is something that can be printed in every form.
type printed struct {
	value any                     // for json and yaml
	names []string                // for name
	table func(*tabwriter.Writer) // for table; it writes no heading if header is empty
	head  string                  // headings, separated by tabs
}

// print writes what was asked for, in the form that was asked for.
func (a *app) print(p printed) error {
	switch a.output {
	case "json":
		return a.printJSON(p.value)
	case "yaml":
		return a.printYAML(p.value)
	case "name":
		for _, name := range p.names {
			fmt.Fprintln(a.Stdout, name)
		}
		return nil
	}
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	if p.head != "" && !a.noHeader {
		fmt.Fprintln(w, p.head)
	}
	p.table(w)
	return w.Flush()
}

func (a *app) printJSON(v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Stdout, "%s\n", text)
	return err
}

// printYAML goes by way of JSON, which YAML contains, so that the members have the same names and order.
func (a *app) printYAML(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil {
		return err
	}
	plain(&node)
	enc := yaml.NewEncoder(a.Stdout)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return err
	}
	return enc.Close()
}

// plain takes JSON's braces and quotes off, where YAML needs none.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		plain(child)
	}
}

// size is a number of bytes as people read it.
func size(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	if value == float64(int64(value)) {
		return fmt.Sprintf("%.0f %ciB", value, units[unit])
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}

// micros is a time as people read it; "-" for none.
func micros(us *int64) string {
	if us == nil {
		return "-"
	}
	switch n := *us; {
	case n < 1000:
		return fmt.Sprintf("%d µs", n)
	case n < 10_000_000:
		return fmt.Sprintf("%.2f ms", float64(n)/1000)
	default:
		return fmt.Sprintf("%.1f s", float64(n)/1e6)
	}
}

// uptime is a number of seconds as people read it.
func uptime(s int64) string {
	d := time.Duration(s) * time.Second
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", s)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%dd%dh", s/86400, s%86400/3600)
}

// orDash is text, fit for a terminal, or a dash for nothing.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return clean(text)
}

// clean takes out what a terminal would obey: a QEMU, and by way of it a guest, may have written the text.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, text)
}

// quote writes one word for a POSIX shell.
func quote(word string) string {
	if word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./_-") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func (a *app) printVMs(vms []vmstate.VM) error {
	p := printed{value: items[vmstate.VM]{vms}, head: "NAME\tSTATUS\tPID\tQEMU\tMACHINE\tRAM\tHANDOFFS\tUPTIME"}
	for _, vm := range vms {
		p.names = append(p.names, vm.Name)
	}
	p.table = func(w *tabwriter.Writer) {
		for _, vm := range vms {
			version := orDash(vm.QEMU.Version)
			if vm.QEMU.Outdated {
				version += " (outdated)"
			}
			pid := "-"
			if vm.PID > 0 {
				pid = fmt.Sprint(vm.PID)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", vm.Name, vm.Status, pid, version, orDash(vm.Machine), size(vm.RAMBytes), vm.Generation, uptime(vm.UptimeS))
		}
	}
	return a.print(p)
}

const migrationHead = "ID\tVM\tPHASE\tPROGRESS\tFROM\tTO\tPAUSE\tTOTAL"

func migrationRow(w *tabwriter.Writer, m vmstate.Migration) {
	fmt.Fprintf(w, "%s\t%s\t%s\t%d%%\t%s\t%s\t%s\t%s\n", m.ID, m.VM, m.Phase, m.Progress, orDash(m.From.Version), orDash(m.To.Version), micros(m.PauseUS), micros(&m.TotalUS))
}

func (a *app) printMigrations(migrations []vmstate.Migration) error {
	p := printed{value: items[vmstate.Migration]{migrations}, head: migrationHead}
	for _, m := range migrations {
		p.names = append(p.names, m.ID)
	}
	p.table = func(w *tabwriter.Writer) {
		for _, m := range migrations {
			migrationRow(w, m)
		}
	}
	return a.print(p)
}

// printMigration prints one as a row.
func (a *app) printMigration(m vmstate.Migration) error {
	return a.print(printed{value: m, names: []string{m.ID}, head: migrationHead, table: func(w *tabwriter.Writer) { migrationRow(w, m) }})
}

// printVM prints a VM if a form was asked for that a program reads; people get a note.
func (a *app) printVM(vm vmstate.VM, note string) error {
	if a.output == "table" {
		a.note("%s", note)
		return nil
	}
	return a.print(printed{value: vm, names: []string{vm.Name}})
}

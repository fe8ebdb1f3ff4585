package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"qlive/vmstate"
)

// Formats are the forms that a report can be written in.
func Formats() []string { return []string{"table", "json", "markdown"} }

// Write writes the report in one of the formats. Only json has every single handoff in it.
func (r Report) Write(w io.Writer, format string) error {
	if format == "json" {
		return WriteJSON(w, r)
	}
	if p := printerOf(w, format); p != nil {
		return r.write(p)
	}
	return vmstate.Errorf(vmstate.Invalid, "cannot write a report as %q", format).With("choose from " + strings.Join(Formats(), ", "))
}

// WriteJSON writes a report for programs.
func WriteJSON(w io.Writer, report any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(report)
}

// printerOf is nil if the format is not one for people.
func printerOf(w io.Writer, format string) *printer {
	switch format {
	case "markdown":
		return &printer{w: w, heading: "## ", table: writeMarkdown, line: "- "}
	case "table":
		return &printer{w: w, table: writeTable}
	}
	return nil
}

// WriteTables writes what describes a run, and then its tables, each with its heading as first line, in a format for people.
func WriteTables(w io.Writer, format string, description []string, tables ...[][]string) error {
	p := printerOf(w, format)
	if p == nil {
		return vmstate.Errorf(vmstate.Invalid, "cannot write tables as %q", format).With("choose table or markdown")
	}
	for _, line := range description {
		p.print("%s%s\n", p.line, line)
	}
	for _, t := range tables {
		p.print("\n")
		if p.err == nil {
			p.err = p.table(w, t)
		}
	}
	return p.err
}

// printer writes a report for people. The first error stays.
type printer struct {
	w             io.Writer
	heading, line string // what a heading and a line of the description begin with
	table         func(io.Writer, [][]string) error
	err           error
}

func (p *printer) print(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// section writes a table, unless it has nothing but its heading.
func (p *printer) section(title string, table [][]string) {
	if len(table) < 2 {
		return
	}
	p.print("\n%s%s\n\n", p.heading, title)
	if p.err == nil {
		p.err = p.table(p.w, table)
	}
}

func (r Report) write(p *printer) error {
	if p.heading != "" {
		p.print("# Figures\n\n")
	}
	for _, line := range append(r.Machine.Lines(), fmt.Sprintf("%s, %d s, seed %d", r.Began.Format("2006-01-02 15:04 MST"), int(r.Took.Seconds()), r.Seed)) {
		p.print("%s%s\n", p.line, line)
	}
	for _, group := range Groups() {
		p.section(groupTitle(group), rowsTable(r.Rows, group))
	}
	p.section("Where the pause goes, medians in ms", lapsTable(r.Rows))
	growth := [][]string{{"way", "ms per GiB", "95 %"}}
	for _, g := range r.Growth {
		growth = append(growth, []string{string(g.Contender), fmt.Sprintf("%+.3f", g.PerGiB.Value), interval(g.PerGiB, "%+.3f")})
	}
	p.section("Growth of the median pause with touched memory", growth)
	return p.err
}

// Lines describe the machine to people.
func (m Machine) Lines() []string {
	where, guests := "", ""
	if m.Virtual {
		where = ", itself virtual"
	}
	if m.Accelerator != "" {
		guests = "; guests under " + m.Accelerator
	}
	lines := []string{
		fmt.Sprintf("%s, %d cores, %.0f GiB%s; Linux %s%s", m.CPU, m.Cores, gib(m.MemoryBytes), where, m.Kernel, guests),
		fmt.Sprintf("load %s before, %s after", m.LoadBefore, m.LoadAfter),
	}
	if len(m.QEMU) == 0 {
		return lines
	}
	var versions []string
	for _, v := range m.QEMU {
		versions = append(versions, strings.TrimPrefix(v, "QEMU emulator version "))
	}
	slices.Sort(versions)
	return append(lines, "QEMU "+strings.Join(versions, ", "))
}

func gib(bytes uint64) float64 { return float64(bytes) / (1 << 30) }

func groupTitle(group string) string {
	return map[string]string{
		RAM:      "By touched memory",
		Pages:    "By size of pages",
		VCPUs:    "By number of vCPUs",
		Devices:  "By number of virtio devices",
		Versions: "By versions of QEMU",
		Peers:    "Beside what QEMU offers by itself",
		Readers:  fmt.Sprintf("While %d readers read a file every second; compared with those of an ordinary file", readerCount),
	}[group]
}

// rowsTable has a heading and a line for each row of the group. Times are in ms, memory in MiB.
func rowsTable(rows []Row, group string) [][]string {
	table := [][]string{{"guest", "way", "n", "pause p50", "p95", "p99", "max", "QEMU's p50", "felt p50", "felt max", "total p50",
		"held MiB", "target MiB", "CPU ms", "to floor", "95 %"}}
	if group == Readers {
		table[0][len(table[0])-2] = "to ordinary"
	}
	for _, r := range rows {
		if r.Group != group {
			continue
		}
		ratio, within := "", ""
		if r.Ratio != nil {
			ratio, within = fmt.Sprintf("%.2f", r.Ratio.Value), interval(*r.Ratio, "%.2f")
		}
		table = append(table, []string{
			r.what(), string(r.Contender), fmt.Sprint(r.Count),
			ms(r.Pause.P50), ms(r.Pause.P95), ms(r.Pause.P99), ms(r.Pause.Max), ms(r.QEMUPause.P50),
			ms(r.HostGap.P50), ms(r.HostGap.Max), fmt.Sprintf("%.0f", r.Total.P50/1000),
			mib(r.Held.P50), mib(r.Target.P50), fmt.Sprintf("%.0f", r.CPU.Mean/1000), ratio, within,
		})
	}
	return table
}

// lapsTable has a line for each row of the group RAM.
func lapsTable(rows []Row) [][]string {
	table := [][]string{append([]string{"guest", "way"}, lapNames()...)}
	for _, r := range rows {
		if r.Group != RAM {
			continue
		}
		line := []string{r.what(), string(r.Contender)}
		for _, name := range lapNames() {
			cell := ""
			if us, ok := r.Laps[name]; ok {
				cell = ms(us)
			}
			line = append(line, cell)
		}
		table = append(table, line)
	}
	return table
}

// what tells the row's guest by what its group varies.
func (r Row) what() string {
	switch size := fmt.Sprintf("%d MiB", r.Shape.TouchedMiB); r.Group {
	case Pages:
		if r.Shape.HugePages {
			return size + ", 2 MiB pages"
		}
		return size + ", 4 KiB pages"
	case VCPUs:
		return fmt.Sprintf("%s, %d vCPU", size, r.Shape.VCPUs)
	case Devices:
		return fmt.Sprintf("%s, %d devices", size, r.Shape.Devices)
	case Versions:
		return r.From + " to " + r.To
	case Peers:
		return fmt.Sprintf("%s, %s to %s", size, r.From, r.To)
	default:
		return size
	}
}

func interval(e Estimate, format string) string {
	return fmt.Sprintf(format+" … "+format, e.Low, e.High)
}

func ms(us float64) string     { return fmt.Sprintf("%.2f", us/1000) }
func mib(bytes float64) string { return fmt.Sprintf("%.1f", bytes/(1<<20)) }

func writeTable(w io.Writer, table [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, line := range table {
		text := strings.Join(line, "\t")
		if i == 0 {
			text = strings.ToUpper(text)
		}
		if _, err := fmt.Fprintln(tw, strings.TrimRight(text, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

func writeMarkdown(w io.Writer, table [][]string) error {
	for i, line := range table {
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(line, " | ")); err != nil {
			return err
		}
		if i > 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "|%s\n", strings.Repeat(" --- |", len(line))); err != nil {
			return err
		}
	}
	return nil
}

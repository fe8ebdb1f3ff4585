package qmp

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// RAMBlock is a piece of guest memory as QEMU keeps it: the machine's RAM, video memory, firmware, a table.
type RAMBlock struct {
	Name     string
	PageSize uint64 // bytes, of the host's pages behind it
	Offset   uint64 // within QEMU's own numbering of RAM, not the guest's
	Used     uint64 // bytes now; this much migrates
	Total    uint64 // bytes that it can grow to

	// Host tells whether HVA and ReadOnly are known: QEMU says them since 8.0.
	Host     bool
	HVA      uint64 // where QEMU has it in its address space
	ReadOnly bool   // to the guest
}

type textReturn struct {
	Text string `json:"human-readable-text"`
}

// QueryRAMBlocks lists the RAM blocks. QEMU has it since 6.2, as text and without a promise to keep it.
func (c *Client) QueryRAMBlocks(ctx context.Context) ([]RAMBlock, error) {
	r, err := ask[textReturn](ctx, c, "x-query-ramblock", nil)
	if err != nil {
		return nil, err
	}
	return ParseRAMBlocks(r.Text)
}

// The columns of QEMU's table, of 7.2 and of 8.0.
const (
	ramblockHead     = "Block Name PSize Offset Used Total"
	ramblockHeadHost = ramblockHead + " HVA RO"
)

// ParseRAMBlocks reads what x-query-ramblock, or "info ramblock" of the human monitor, says. Blocks without a name are left out: they
// belong to backends that no device uses, and to no migration.
func ParseRAMBlocks(text string) ([]RAMBlock, error) {
	head, rows, _ := strings.Cut(text, "\n")
	var host bool
	switch strings.Join(strings.Fields(head), " ") {
	case ramblockHead:
	case ramblockHeadHost:
		host = true
	default:
		return nil, fmt.Errorf("cannot read QEMU's list of RAM blocks: unknown columns %q", strings.TrimSpace(head))
	}
	var blocks []RAMBlock
	for row := range strings.Lines(rows) {
		if strings.TrimSpace(row) == "" {
			continue
		}
		b, err := parseRAMBlock(row, host)
		if err != nil {
			return nil, fmt.Errorf("cannot read QEMU's list of RAM blocks: %w in %q", err, strings.TrimSpace(row))
		}
		if b.Name != "" {
			blocks = append(blocks, b)
		}
	}
	return blocks, nil
}

// parseRAMBlock reads a row from its right end, for a name may hold anything.
func parseRAMBlock(row string, host bool) (RAMBlock, error) {
	b := RAMBlock{Host: host}
	row = strings.TrimRight(row, "\r\n ")
	if host {
		var mode string
		row, mode = lastField(row)
		if mode != "ro" && mode != "rw" {
			return b, errors.New("no ro or rw")
		}
		b.ReadOnly = mode == "ro"
	}
	columns := []*uint64{&b.Total, &b.Used, &b.Offset}
	if host {
		columns = append([]*uint64{&b.HVA}, columns...)
	}
	for _, column := range columns {
		var field string
		row, field = lastField(row)
		n, err := strconv.ParseUint(field, 0, 64)
		if err != nil || !strings.HasPrefix(field, "0x") {
			return b, fmt.Errorf("no hexadecimal number %q", field)
		}
		*column = n
	}
	row, unit := lastField(row)
	row, count := lastField(row)
	size, err := parseSize(count, unit)
	if err != nil {
		return b, err
	}
	b.PageSize = size
	b.Name = strings.TrimLeft(row, " ")
	return b, nil
}

// lastField cuts the last word off row, and the blanks before it.
func lastField(row string) (rest, field string) {
	i := strings.LastIndexByte(row, ' ')
	return strings.TrimRight(row[:i+1], " "), row[i+1:]
}

// parseSize reads a page size such as "4 KiB".
func parseSize(count, unit string) (uint64, error) {
	n, err := strconv.ParseUint(count, 10, 32)
	shift := map[string]uint{"B": 0, "KiB": 10, "MiB": 20, "GiB": 30}
	bits, ok := shift[unit]
	if err != nil || !ok || n == 0 {
		return 0, fmt.Errorf("no page size %q", count+" "+unit)
	}
	return n << bits, nil
}

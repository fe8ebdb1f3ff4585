package cmdline

import (
	"fmt"
	"slices"
	"strings"
)

// backend rewrites a memory backend into a memory-backend-file on a descriptor of qlive's.
func (r *rewriter) backend(o option, p *props) (edit, error) {
	kind := strings.TrimPrefix(p.str("qom-type"), "memory-backend-")
	if !slices.Contains([]string{"ram", "memfd", "file", "shm"}, kind) {
		return edit{}, refuse(o, "such memory belongs to one process alone", "use memory-backend-ram")
	}
	if err := r.checkContent(o, p, kind); err != nil {
		return edit{}, err
	}
	size, err := parseSize(p.str("size"), 1)
	if err != nil || size == 0 {
		return edit{}, invalid(o, "its size is missing or "+errSize.Error(), "write size=, such as size=4G")
	}
	g := Region{ID: p.str("id"), SizeBytes: size, Prealloc: r.s.prealloc || p.on("prealloc")}
	g.Block = r.blockName(p, kind, g.ID)
	why := []string{whyRAM}
	why = append(why, r.hugePages(p, kind, &g)...)
	if g.PageBytes > 0 && size%g.PageBytes != 0 {
		return edit{}, invalid(o, fmt.Sprintf("its size is no multiple of the huge pages of %d bytes", g.PageBytes), "choose a size that is")
	}
	if share, ok := p.get("share"); ok && !isOn(share) {
		why = append(why, "share=on: RAM that is private to one QEMU would have to be copied")
	}
	why = append(why, r.trim(p)...)
	p.set("qom-type", "memory-backend-file")
	p.set("mem-path", r.region(g))
	p.set("share", "on")
	own, _ := parseSize(p.str("align"), 1) // 0 if there is none, or one that QEMU will refuse
	if align := r.alignment(g); align > own {
		p.setNumber("align", align)
	}
	if r.unreserved() {
		p.set("reserve", "off")
	}
	return change(p.String(), strings.Join(why, "; "))
}

// unreserved tells whether QEMU is kept from having huge pages promised for all of its RAM.
func (r *rewriter) unreserved() bool { return r.place.Promised && r.place.Version.AtLeast(6, 1) }

// QEMU aligns what it maps to the file's pages alone; ordinary RAM that is not aligned to hugeAlign never gets transparent huge pages,
// in this QEMU or in the next.
const hugeAlign = 2 << 20 // bytes

// alignment is what QEMU is told to align its mapping of g to, in bytes; 0 for nothing.
func (r *rewriter) alignment(g Region) uint64 {
	align := max(hugeAlign, g.PageBytes, r.facts.PageBytes)
	if g.SizeBytes < align {
		return 0
	}
	return align
}

// checkContent refuses backends that stand for a file's content rather than for RAM.
func (r *rewriter) checkContent(o option, p *props, kind string) error {
	switch {
	case p.on("readonly") || p.on("rom"):
		return refuse(o, "it cannot be written, so it is no RAM", "leave readonly and rom out, or pass the content by -drive if=pflash")
	case p.on("pmem"):
		return refuse(o, "persistent memory cannot be handed over yet", "leave pmem=on out")
	case kind == "file" && r.s.nvdimm[p.str("id")]:
		return refuse(o, "a file that backs an nvdimm cannot be handed over yet", "give the guest the file as a disk, or the nvdimm a memory-backend-ram")
	}
	if kind != "file" {
		return nil
	}
	if off, ok := p.get("offset"); ok && off != "0" {
		return refuse(o, "RAM that begins inside a file cannot be handed over yet", "leave offset out")
	}
	mem := p.str("mem-path")
	if mem == "" {
		return invalid(o, "it has no mem-path", "use memory-backend-ram")
	}
	if info := r.facts.Paths[mem]; info.Exists && !info.Dir {
		return refuse(o, mem+" exists, and what it holds would have to become guest RAM",
			"use memory-backend-ram, name a folder, or remove the file if it is left over")
	}
	return nil
}

// hugePages reads from the backend what pages its RAM shall have, and says what goes for it.
func (r *rewriter) hugePages(p *props, kind string, g *Region) []string {
	switch kind {
	case "memfd":
		g.Huge = p.on("hugetlb")
		if n, err := parseSize(p.str("hugetlbsize"), 1); err == nil && g.Huge {
			g.PageBytes = n
		}
		p.remove("hugetlb")
		p.remove("hugetlbsize")
		p.remove("seal")
	case "file":
		info := r.facts.Paths[p.str("mem-path")]
		g.PageBytes, g.Huge = info.PageBytes, info.PageBytes > 0
		if !g.Huge && info.Exists && !info.Memory {
			r.warn("the RAM %s lay in files under %s and is plain memory now", g.ID, p.str("mem-path"))
		}
	}
	if g.Huge {
		return []string{"its huge pages are qlive's"}
	}
	return nil
}

// blockName is the name that QEMU gives the backend's block; in machine types up to 3.1 it depends on the kind of the
// backend, which must not show.
func (r *rewriter) blockName(p *props, kind, id string) string {
	const key = "x-use-canonical-path-for-ramblock-id"
	canonical := r.canonicalNames() && (kind == "file" || kind == "memfd")
	if named, said := p.get(key); said {
		canonical = isOn(named)
	} else if r.canonicalNames() && !canonical {
		p.set(key, "off")
	}
	if canonical {
		return "/objects/" + id
	}
	return id
}

// trim takes away what must not happen to memory that a running guest has, or that qlive does itself.
func (r *rewriter) trim(p *props) []string {
	var why []string
	off := func(reason string, keys ...string) {
		found := false
		for _, key := range keys {
			found = p.remove(key) || found
		}
		if found && reason != "" {
			why = append(why, strings.Join(keys, " and ")+" dropped: "+reason)
		}
	}
	if p.on("discard-data") {
		off("a QEMU that ends would wipe the RAM of its successor", "discard-data")
	}
	if p.has("prealloc") || p.has("prealloc-threads") || p.has("prealloc-context") {
		off(whyFill, "prealloc")
		off("", "prealloc-threads")
		off("", "prealloc-context")
	}
	if p.has("reserve") {
		off("qlive reserves the RAM itself", "reserve")
	}
	if r.place.Incoming && (p.has("host-nodes") || p.has("policy")) {
		off("the RAM lies where the first QEMU put it, and binding it anew would move pages of the running guest", "host-nodes", "policy")
	}
	return why
}

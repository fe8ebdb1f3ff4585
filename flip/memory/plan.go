package memory

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"

	"qlive/vmstate"
)

// plan is a want with everything decided.
type plan struct {
	want      Want
	backing   vmstate.Backing
	pageBytes uint64
	fileName  string // of the memfd or the file
	path      string // for people
}

// plan decides what each want becomes, and refuses what cannot be before anything is made.
func (h host) plan(spec vmstate.MemorySpec, vm string, wants []Want) ([]plan, error) {
	if err := vmstate.CheckName(vm); err != nil {
		return nil, err
	}
	if len(wants) == 0 {
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot make the RAM of %s: it has no RAM block", vm).
			With("give the guest RAM, such as -m 1024")
	}
	if spec.Path != "" && spec.Backing != vmstate.Hugetlbfs {
		return nil, vmstate.Errorf(vmstate.Invalid, "cannot put the RAM of %s into %s: only backing hugetlbfs has a path", vm, spec.Path).
			With("ask for backing hugetlbfs, or leave the path out")
	}
	seen := map[string]bool{}
	plans := make([]plan, 0, len(wants))
	for _, w := range wants {
		if w.Name == "" || seen[w.Name] {
			return nil, vmstate.Errorf(vmstate.Invalid, "cannot make the RAM of %s: two blocks, or none, are called %q", vm, w.Name).
				With("give each RAM block its own name")
		}
		seen[w.Name] = true
		p, err := h.planOne(spec, vm, w)
		if err != nil {
			return nil, err
		}
		plans = append(plans, p)
	}
	return plans, nil
}

func (h host) planOne(spec vmstate.MemorySpec, vm string, w Want) (plan, error) {
	p := plan{want: w, fileName: fileName(vm, w.Name)}
	p.path = p.fileName
	var err error
	switch spec.Backing {
	case "", vmstate.Memfd:
		p, err = h.planMemfd(p, spec, ordinary)
	case vmstate.Hugetlb:
		p, err = h.planMemfd(p, spec, 0)
	case vmstate.Hugetlbfs:
		p, err = h.planHugetlbfs(p, spec)
	default:
		err = vmstate.Errorf(vmstate.Invalid, "cannot make RAM block %q of %q: no such backing", w.Name, spec.Backing).
			With("use memfd, hugetlb or hugetlbfs")
	}
	if err != nil {
		return p, err
	}
	return p, p.checkSize()
}

// ordinary stands for the host's ordinary page size in planMemfd.
const ordinary = 1

// planMemfd plans a memfd. A page size in the want goes before that of the spec, and that before what the
// backing takes by itself: preset, 0 for the host's default huge page.
func (h host) planMemfd(p plan, spec vmstate.MemorySpec, preset uint64) (plan, error) {
	if preset == ordinary {
		preset = h.pageBytes
		if spec.PageBytes != 0 && spec.PageBytes != preset {
			return p, vmstate.Errorf(vmstate.Invalid, "cannot make a memfd of pages of %s: backing memfd has pages of %s",
				bytesText(spec.PageBytes), bytesText(preset)).With("ask for backing hugetlb")
		}
	} else if spec.PageBytes == h.pageBytes {
		return p, vmstate.Errorf(vmstate.Invalid, "cannot make huge pages of %s: that is an ordinary page", bytesText(spec.PageBytes)).
			With("ask for backing memfd, or for pages of 2097152 or 1073741824 bytes")
	}
	for _, size := range []uint64{p.want.PageBytes, spec.PageBytes, preset} {
		if p.pageBytes == 0 {
			p.pageBytes = size
		}
	}
	if p.pageBytes == h.pageBytes {
		p.backing = vmstate.Memfd
		return p, nil
	}
	p.backing = vmstate.Hugetlb
	var err error
	if p.pageBytes == 0 {
		if p.pageBytes, err = h.defaultHugePage(); err != nil {
			return p, err
		}
	}
	return p, h.checkHugePage(p)
}

// planHugetlbfs plans a file: its page size is the mount's.
func (h host) planHugetlbfs(p plan, spec vmstate.MemorySpec) (plan, error) {
	mount, err := mountPageBytes(spec.Path)
	if err != nil {
		return p, err
	}
	for _, size := range []uint64{p.want.PageBytes, spec.PageBytes} {
		if size != 0 && size != mount {
			return p, vmstate.Errorf(vmstate.Invalid, "cannot put RAM block %q, which wants pages of %s, into %s: it has pages of %s",
				p.want.Name, bytesText(size), spec.Path, bytesText(mount)).
				With(fmt.Sprintf("mount -t hugetlbfs -o pagesize=%d none DIR, and give that folder", size))
		}
	}
	p.backing, p.pageBytes, p.path = vmstate.Hugetlbfs, mount, filepath.Join(spec.Path, p.fileName)
	if p.path == p.want.beside { // no name of another block ends so
		p.fileName += besideMark
		p.path += besideMark
	}
	return p, nil
}

// besideMark ends the name of a file beside another one of the same block.
const besideMark = "+"

// maxBytes is the address space of a process on x86-64.
const maxBytes = 1 << 47

// checkSize refuses sizes that no mapping of these pages can have.
func (p plan) checkSize() error {
	size, page := p.want.SizeBytes, p.pageBytes
	if size == 0 || size > maxBytes {
		return vmstate.Errorf(vmstate.Invalid, "cannot make RAM block %q of %d bytes", p.want.Name, size).
			With("give it a size that the host can hold")
	}
	if rest := size % page; rest != 0 {
		return vmstate.Errorf(vmstate.Invalid, "cannot make RAM block %q: its %d bytes are no multiple of its page size of %d bytes",
			p.want.Name, size, page).
			With(fmt.Sprintf("make it %d or %d bytes, or use smaller pages", size-rest, size-rest+page))
	}
	return nil
}

// maxName leaves room for the kernel's "memfd:" in a name of 255 bytes.
const maxName = 240

// fileName names the file of a block: qlive-VM-BLOCK, in which everything of the block's name but letters,
// digits, dot and underscore is written %XX, so that two blocks of whatever VMs never share a name.
func fileName(vm, block string) string {
	var b strings.Builder
	b.WriteString("qlive-" + vm + "-")
	for _, c := range []byte(block) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	name := b.String()
	if len(name) <= maxName {
		return name
	}
	sum := fmt.Sprintf("~%x", sha256.Sum256([]byte(name)))
	return name[:maxName-17] + sum[:17]
}

// bytesText writes a page or pool size for people.
func bytesText(n uint64) string {
	for _, unit := range []struct {
		bytes uint64
		name  string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= unit.bytes && n%unit.bytes == 0 {
			return fmt.Sprintf("%d %s", n/unit.bytes, unit.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

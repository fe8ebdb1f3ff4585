package daemon

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/rs/zerolog"

	"qlive/flip/memory"
	"qlive/internal/systemd"
)

// custody has the service manager hold the descriptors of guests' RAM, under names that tell whose they are, so that RAM has a second
// holder whatever becomes of the daemon, and so that the next daemon gets it from somebody whom no QEMU can deceive.
//
// The manager never answers, so nothing here fails: what could not be stored is logged, and the next daemon asks the QEMU instead.
// A nil service makes all of it do nothing.
type custody struct {
	service *systemd.Service
	log     zerolog.Logger

	mu sync.Mutex
	// received are the descriptors of an earlier daemon that nobody has claimed yet, by name.
	received map[string]*os.File
	// held is what the manager holds for each VM, by name.
	held map[string]map[string]identity
}

// identity names a file.
type identity struct{ dev, inode uint64 }

// newCustody takes over what an earlier daemon has stored.
func newCustody(service *systemd.Service, log zerolog.Logger) *custody {
	c := &custody{service: service, log: log, received: make(map[string]*os.File), held: make(map[string]map[string]identity)}
	files := service.Take(func(f systemd.File) bool { return strings.HasPrefix(f.Name, ramPrefix) })
	for _, f := range files {
		first, twice := c.received[f.Name]
		switch {
		case !twice:
			c.received[f.Name] = f.File
		case first != nil && identify(first) == identify(f.File):
			c.close(f.File)
		default: // which of them is the guest's cannot be told, and its QEMU knows
			c.log.Warn().Str("name", f.Name).Msg("two descriptors are stored under one name: none of them is used")
			c.close(f.File)
			if first != nil {
				c.close(first)
			}
			c.received[f.Name] = nil
		}
	}
	for name, f := range c.received {
		if f == nil {
			delete(c.received, name)
			c.forget(name)
		}
	}
	return c
}

// offer is the file of a region of a VM, as an earlier daemon had it stored: nil if it has not. It is the caller's from now on, who
// must make sure that it is what he takes it for, and close it if not. Each file is offered once.
func (c *custody) offer(vm, region string) *os.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := ramName(vm, region)
	f := c.received[name]
	if f == nil {
		return nil
	}
	delete(c.received, name)
	c.noteLocked(vm, name, identify(f))
	return f
}

// keep has the RAM of a VM stored, and that which a handoff moves it into, nil for none: what is stored already stays, what is stored of this VM and
// is none of its RAM is let go of. That comes first: a manager passes over a descriptor that it has under another name.
func (c *custody) keep(vm string, set, next *memory.Set) {
	if !c.service.Notifies() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted := make(map[string]*memory.Region)
	for _, r := range set.Regions() {
		wanted[ramName(vm, r.Name())] = r
	}
	for _, r := range next.Regions() {
		wanted[ramName(vm, r.Name()+nextMark)] = r
	}
	for name := range c.held[vm] {
		if wanted[name] == nil {
			c.forget(name)
			delete(c.held[vm], name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		c.storeLocked(vm, name, wanted[name])
	}
}

// nextMark is added to the name of a region for the file that a handoff moves it into.
const nextMark = "+next"

func (c *custody) storeLocked(vm, name string, r *memory.Region) {
	id := identity{r.Dev(), r.Inode()}
	if held, ok := c.held[vm][name]; ok && held == id {
		return
	}
	count, bytes := c.sizeLocked()
	if size := c.service.StoreSize(); size > 0 && count >= size || bytes+len(name) > maxNames {
		c.log.Warn().Str("vm", vm).Str("region", r.Name()).Int("stored", count).Int("limit", size).
			Msg("RAM not stored: the service manager's store is full; raise FileDescriptorStoreMax= in qlive.service")
		return
	}
	if f := c.received[name]; f != nil { // of a guest of that name that has ended
		c.close(f)
		delete(c.received, name)
	}
	c.forget(name) // another file that may have that name, lest there be two
	if err := c.service.Store(name, r.File()); err != nil {
		c.log.Warn().Err(err).Str("vm", vm).Str("region", r.Name()).Msg("RAM not stored")
		return
	}
	c.noteLocked(vm, name, id)
}

// release lets go of everything that is stored of a VM: it has ended.
func (c *custody) release(vm string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.held[vm] {
		c.forget(name)
	}
	delete(c.held, vm)
}

// settle is called once every VM that an earlier daemon has left is known again, or known to be gone: what nobody has claimed is
// closed, and the RAM of a VM that is gone is let go of. Of a VM that is known it stays stored as long as the VM is there.
func (c *custody) settle(known func(vm string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(c.received)) {
		f := c.received[name]
		if vm := vmOfRAM(name); known(vm) {
			c.noteLocked(vm, name, identify(f))
		} else {
			c.log.Info().Str("vm", vm).Str("name", name).Msg("RAM of a VM that is gone let go of")
			c.forget(name)
		}
		c.close(f)
	}
	clear(c.received)
}

// closeAll closes what nobody has claimed; it stays stored.
func (c *custody) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.received {
		c.close(f)
	}
	clear(c.received)
}

func (c *custody) noteLocked(vm, name string, id identity) {
	if c.held[vm] == nil {
		c.held[vm] = make(map[string]identity)
	}
	c.held[vm][name] = id
}

// maxNames is how long the names of all that is stored may be together, in bytes. The manager passes them on in one variable of the
// environment, colon-separated, and a daemon for which that is longer than the kernel allows (128 KiB, MAX_ARG_STRLEN) could not
// be started at all. There is room left for what else is in it.
const maxNames = 120 << 10

// sizeLocked is how many descriptors are stored and how long their names are together, separators included.
func (c *custody) sizeLocked() (count, bytes int) {
	for name := range c.received {
		count, bytes = count+1, bytes+len(name)+1
	}
	for _, names := range c.held {
		for name := range names {
			count, bytes = count+1, bytes+len(name)+1
		}
	}
	return count, bytes
}

func (c *custody) forget(name string) {
	if err := c.service.Forget(name); err != nil {
		c.log.Warn().Err(err).Str("name", name).Msg("stored descriptor not let go of")
	}
}

func (c *custody) close(f *os.File) {
	if err := f.Close(); err != nil {
		c.log.Warn().Err(err).Str("name", f.Name()).Msg("descriptor not closed")
	}
}

// identify is the identity of an open file; none for one that cannot be looked at.
func identify(f *os.File) identity {
	info, err := f.Stat()
	if err != nil {
		return identity{}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}
	}
	return identity{uint64(st.Dev), st.Ino}
}

// ramPrefix begins the names of stored RAM.
const ramPrefix = "ram-"

// ramName is what a region of a VM is stored as: ram-VM-REGION, in which everything of the region's name but letters, digits, dot, slash and
// underscore is written %XX. So the last hyphen ends the VM's name, two regions never share one, and the manager takes every
// one of them: no colon, nothing but printable ASCII, at most systemd.MaxName bytes.
func ramName(vm, region string) string {
	var b strings.Builder
	b.WriteString(ramPrefix + vm + "-")
	for _, c := range []byte(region) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '/', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	name := b.String()
	if len(name) <= systemd.MaxName {
		return name
	}
	sum := fmt.Sprintf("~%x", sha256.Sum256([]byte(name)))
	return name[:systemd.MaxName-17] + sum[:17]
}

// vmOfRAM is the VM's name in a name of ramName's; empty if it is none.
func vmOfRAM(name string) string {
	rest, ok := strings.CutPrefix(name, ramPrefix)
	i := strings.LastIndexByte(rest, '-')
	if !ok || i < 0 {
		return ""
	}
	return rest[:i]
}

// isThere tells whether a VM is known, or has left a folder for a later daemon to make sense of.
func (d *Daemon) isThere(vm string) bool {
	if _, err := d.machine(vm); err == nil {
		return true
	}
	_, err := os.Lstat(d.cfg.vmDir(vm))
	return err == nil
}

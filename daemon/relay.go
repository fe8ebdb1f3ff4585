package daemon

import (
	"os"
	"path/filepath"

	"qlive/internal/qemu"
)

// relayLog is what a relay says, in the folder of the generation that it passes pages to.
const relayLog = "relay.log"

// relay is what starts the process between the two QEMUs of a postcopy; nil if this program cannot be one. That is this program once more, as whom and
// where the VM's QEMUs run. Like them it outlives the daemon, and the kernel spares it as it spares them when memory runs out: the guest depends on all three.
func (r *run) relay() func(source, target *os.File) (*qemu.Process, error) {
	verb, place := r.m.d.relayVerb, r.m.place
	if verb == "" {
		return nil
	}
	return func(source, target *os.File) (*qemu.Process, error) {
		return qemu.StartSelf(qemu.Command{
			Args: []string{verb}, Files: []*os.File{source, target}, Dir: "/", Env: []string{},
			Log:  filepath.Join(r.m.d.cfg.generationDir(r.m.spec.Name, r.number), relayLog),
			User: place.user, Cgroup: place.folder(), OOMScoreAdj: place.score,
		})
	}
}

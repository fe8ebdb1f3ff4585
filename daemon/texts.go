package daemon

import (
	"cmp"
	"path/filepath"
	"time"

	"qlive/vmstate"
	"qlive/vmstate/logfile"
)

const (
	// textsLook is how often qlive looks how much guests and QEMUs have written.
	textsLook = time.Second
	// textsGrow is how much must have been written before old text is dropped once more, in bytes.
	textsGrow = 64 << 10
	// defaultLogBytes is what is kept of each text of a VM.
	defaultLogBytes = 64 << 20
)

// trimTexts keeps what guests and QEMUs write from filling the run directory, which all VMs share and which takes the host's memory: a guest
// writes on its console as much as it likes.
func (d *Daemon) trimTexts() {
	trimmed := map[string]int64{} // how long the newest file of each text was when it was trimmed
	d.every(textsLook, func() {
		longer := make(map[string]int64, len(trimmed))
		for _, vm := range d.Snapshot().VMs {
			for _, text := range textsOf(vm) {
				d.trim(vm, text, trimmed, longer)
			}
		}
		trimmed = longer
	})
}

// textsOf are the texts of a VM, each in several files, oldest first.
func textsOf(vm vmstate.VM) [][]string {
	transcripts := make([]string, len(vm.QEMULog))
	for i, log := range vm.QEMULog {
		transcripts[i] = filepath.Join(filepath.Dir(log), transcriptName)
	}
	return [][]string{vm.ConsoleLog, vm.QEMULog, transcripts}
}

// trim drops what is old of a text, unless it has hardly grown since that was done last: only its newest file is written to. While the guest
// stands nothing is done that could make it stand longer.
func (d *Daemon) trim(vm vmstate.VM, text []string, trimmed, longer map[string]int64) {
	if len(text) == 0 {
		return
	}
	newest := text[len(text)-1]
	length := logfile.Stat(newest).End
	if before, known := trimmed[newest]; known && (length-before < textsGrow || vm.Status == vmstate.Migrating) {
		longer[newest] = before
		return
	}
	longer[newest] = length
	if err := logfile.Trim(text, cmp.Or(d.cfg.LogBytes, defaultLogBytes)); err != nil {
		d.log.Warn().Err(err).Str("vm", vm.Name).Msg("old text not dropped: it may fill the run directory")
	}
}

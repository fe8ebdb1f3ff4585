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
	// defaultLogBytes is what is kept of each text of a VM.
	defaultLogBytes = 64 << 20
)

// trimTexts keeps what guests and QEMUs write from filling the run directory, which all VMs share and which takes the host's memory: a guest
// writes on its console as much as it likes.
func (d *Daemon) trimTexts() {
	tick := time.NewTicker(textsLook)
	defer tick.Stop()
	told := map[string]bool{}
	for {
		select {
		case <-d.running.Done():
			return
		case <-tick.C:
		}
		for _, vm := range d.Snapshot().VMs {
			if err := d.trimTextsOf(vm); err != nil && !told[vm.Name] {
				told[vm.Name] = true
				d.log.Warn().Err(err).Str("vm", vm.Name).Msg("old text not dropped: it may fill the run directory")
			}
		}
	}
}

func (d *Daemon) trimTextsOf(vm vmstate.VM) error {
	keep := cmp.Or(d.cfg.LogBytes, defaultLogBytes)
	transcripts := make([]string, len(vm.QEMULog))
	for i, log := range vm.QEMULog {
		transcripts[i] = filepath.Join(filepath.Dir(log), transcriptName)
	}
	for _, texts := range [][]string{vm.ConsoleLog, vm.QEMULog, transcripts} {
		if err := logfile.Trim(texts, keep); err != nil {
			return err
		}
	}
	return nil
}

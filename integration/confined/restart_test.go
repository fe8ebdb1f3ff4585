package confined_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// A guest keeps the user and the cgroup that it was started with, whatever the configuration of a later daemon says.
func TestPlaceOutlivesTheDaemon(t *testing.T) {
	more := "user: nobody\ncgroup: auto\n"
	d := lab.NewDaemon(t, lab.DaemonOptions{NoTree: true, Prepare: func(cmd *exec.Cmd) {
		config := cmd.Args[slices.Index(cmd.Args, "--config")+1]
		if err := os.Chmod(filepath.Dir(config), 0o711); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(config, []byte("log_level: debug\n"+more), 0o600); err != nil {
			t.Fatal(err)
		}
	}})
	vm := d.Lab.Start(lab.Spec{Bare: true})
	source := vm.Show()
	user, group := status(t, source.PID, "Uid"), procFile(t, source.PID, "cgroup")
	more = "user: root\ncgroup: qlive-elsewhere\n"
	d.Restart()
	m := vm.HandOver(env.Newest, vmstate.WayDeviceState)
	if now := status(t, m.To.PID, "Uid"); now != user {
		t.Errorf("it runs as %s, it ran as %s", now, user)
	}
	if now := procFile(t, m.To.PID, "cgroup"); now != group {
		t.Errorf("it runs in %s, it ran in %s", now, group)
	}
	if score := procFile(t, m.To.PID, "oom_score_adj"); score != "0" {
		t.Errorf("its oom_score_adj is %s", score)
	}
	folder := cgroupFolder(t, m.To.PID)
	if err := d.Client.RemoveVM(t.Context(), vm.Name, true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("the cgroup %s is still there: %v", folder, err)
	}
	t.Cleanup(func() { _ = os.Remove(filepath.Dir(folder)) }) // the first daemon, which made it, was killed
}

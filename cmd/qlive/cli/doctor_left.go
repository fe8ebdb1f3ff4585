package cli

import (
	"cmp"
	"path/filepath"

	"qlive/daemon/survey"
)

// findDirs fills in the directories that were not given: from the environment, else from the configuration.
func (a *app) findDirs(dirs *survey.Dirs) error {
	var run, state string
	var err error
	if a.Dirs != nil {
		run, state, err = a.Dirs()
	}
	dirs.Run = cmp.Or(dirs.Run, a.Getenv("QLIVE_RUN_DIR"), run, "/run/qlive")
	dirs.State = cmp.Or(dirs.State, a.Getenv("QLIVE_STATE_DIR"), state, "/var/lib/qlive")
	return err
}

// leftFindings tell, while no daemon answers, what is known of each VM.
func (a *app) leftFindings(dirs survey.Dirs) []finding {
	const name = "vms"
	vms, err := survey.Look(survey.Dirs{Run: filepath.Join("/", a.Root, dirs.Run), State: filepath.Join("/", a.Root, dirs.State)})
	if err != nil {
		return []finding{fail(name, cmp.Or(remedyOf(err), "use sudo"), "%v", err)}
	}
	findings := []finding{ok(name, "%d are known from %s and %s", len(vms), dirs.Run, dirs.State)}
	for _, vm := range vms {
		for _, f := range vm.Findings() {
			findings = append(findings, finding{Level: string(f.Level), Name: "vm " + vm.Name, Detail: f.Detail, Remedy: f.Remedy})
		}
	}
	return findings
}

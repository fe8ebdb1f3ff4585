package recovery

import "qlive/vmstate"

// postcopyRows: mode postcopy, from the commitment to the switch until all pages have come. They come before the rows of the same phases, which hold
// for RAM that is all in one place.
func postcopyRows() []Row {
	committing := []vmstate.Phase{vmstate.Committing}
	late := []vmstate.Phase{vmstate.Committed, vmstate.Draining}
	failed := []vmstate.Phase{vmstate.Failed}
	unmoved, coming, cut, parted := []Pages{Unmoved}, []Pages{Coming}, []Pages{Cut}, []Pages{Coming, Cut}
	const (
		dead  = "the target is dead, and with it what had come of the guest"
		apart = "neither QEMU has all of the guest, and no more of it can come"
	)
	return []Row{
		{Phases: committing, Pages: coming, Source: []Sight{Mute}, Target: gone(), Do: LeaveOpen, Because: "the target is dead, and the source, which may have kept the guest, does not answer"},
		{Phases: committing, Pages: parted, Target: gone(), Do: GiveUp, Because: dead},
		{Phases: committing, Pages: cut, Do: LeaveOpen, Because: apart},
		{Phases: committing, NeverRan: Yes, Pages: coming, Do: LeaveOpen, Because: "the source has let go of the guest, though the target had refused it"},
		{Phases: committing, NeverRan: No, Pages: unmoved, Source: []Sight{Moving}, Target: []Sight{Loading}, Do: Push,
			Because: "the source may have been told to let go of the guest, and then cannot be told otherwise"},
		{Phases: committing, NeverRan: No, Pages: unmoved, Target: []Sight{Loading}, Do: WriteOff, Because: "the source has not let go of the guest, and does not any more"},
		{Phases: committing, NeverRan: No, Pages: unmoved, Target: gone(), Do: WriteOff, Because: "the target is dead, and the source had not let go of the guest"},
		{Phases: committing, NeverRan: No, Pages: unmoved, Do: LeaveOpen, Because: "the source still has the guest, and it is not certain that the target has not"},
		{Phases: committing, NeverRan: No, Pages: coming, Target: []Sight{Loading}, Do: Push, Because: "the target is about to have the guest"},
		{Phases: committing, NeverRan: No, Pages: coming, Target: hasRun(), Do: Commit, Because: "the target has the guest, and its pages follow"},
		{Phases: committing, NeverRan: No, Pages: coming, Target: []Sight{Stands}, Ran: No, Do: Commit, Because: "the guest stood before and stands in the target, and its pages follow"},
		{Phases: committing, NeverRan: No, Pages: coming, Target: []Sight{Stands}, Stranger: No, Do: RunTarget, Because: "the target has the guest, its pages follow, and it has not been told to run"},
		{Phases: committing, NeverRan: No, Pages: coming, Target: []Sight{Stands}, Do: LeaveOpen, Because: "a process that qlive does not know maps the guest's RAM"},
		{Phases: committing, NeverRan: No, Pages: coming, Target: []Sight{Mute}, Do: LeaveOpen, Because: "the source has let go of the guest, and the target does not answer"},

		{Phases: late, Pages: parted, Target: gone(), Do: GiveUp, Because: dead},
		{Phases: late, Pages: cut, Do: LeaveOpen, Because: apart},
		{Phases: late, Pages: coming, Source: gone(), Do: LeaveOpen, Because: "the source is dead, and it is not certain that all of the guest has come"},
		{Phases: late, Pages: coming, Do: Receive, Because: "the guest's pages have not all come"},
		{Phases: late, Pages: unmoved, Do: LeaveOpen, Because: "the source still has the guest that it is said to have let go of"},

		{Phases: failed, Resolve: ToSource, Pages: parted, Do: Refuse, Because: "the source has let go of the guest, and has only some of its memory"},
		{Phases: failed, Resolve: ToTarget, Pages: cut, Do: Refuse, Because: apart},
		{Phases: failed, Resolve: ToTarget, Pages: unmoved, Do: Refuse, Because: "the source has not let go of the guest"},
		{Phases: failed, Resolve: ToTarget, Pages: coming, Source: alive(), Target: []Sight{Runs, Stands, Moving, Ended}, Do: Receive, Because: "the guest's pages have not all come"},
		{Phases: failed, Resolve: ToTarget, Pages: coming, Do: Refuse, Because: "it is not certain that the target gets all of the guest"},
	}
}

package kills_test

import (
	"testing"

	"golang.org/x/sys/unix"

	"qlive/integration/kills/stage"
	"qlive/vmstate"
)

func TestReasons(t *testing.T) {
	m := newMatrix(t)
	for _, k := range []stage.Strike{
		{Party: stage.Source, Point: "flip.plan.after"},
		{Party: stage.Source, Point: "flip.compare-devices.before"},
		{Party: stage.Source, Point: "flip.hold.before"},
		{Party: stage.Source, Point: "flip.stop.after"},
		{Party: stage.Target, Point: "flip.run-target.after"},
		{Party: stage.Target, Point: "flip.end-source.before"},
		{Party: stage.Source, Point: "flip.compare-devices.before", And: true},
		{Party: stage.Source, Point: "flip.stop.after", And: true},
		{Party: stage.Source, Point: "flip.load.after", And: true},
		{Party: stage.Target, Point: "flip.run-target.before", And: true},
		{Party: stage.Target, Point: "flip.run-target.after", And: true},
		{Party: stage.Target, Point: "flip.end-source.before", And: true},
	} {
		k.Signal = unix.SIGKILL
		c := cell{vmstate.WayDeviceState, k}
		t.Run(c.name(), func(t *testing.T) { m.visit(t, c) })
	}
}

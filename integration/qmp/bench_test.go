package qmp_test

import (
	"path/filepath"
	"testing"

	"qlive/integration/env"
	"qlive/internal/qmp"
)

// BenchmarkRoundTrip is what a command costs that QEMU answers at once.
func BenchmarkRoundTrip(b *testing.B) {
	for _, version := range env.Versions() {
		b.Run(version, func(b *testing.B) {
			q := start(b, version, guestRAM(b))
			for b.Loop() {
				if _, err := q.QueryStatus(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkStopAndSave is the source's part of a handoff, the two commands one after the other or in one write.
func BenchmarkStopAndSave(b *testing.B) {
	ways := map[string]func(b *testing.B, q *qemu, save qmp.Command) error{
		"sequential": func(b *testing.B, q *qemu, save qmp.Command) error {
			if err := q.Stop(b.Context()); err != nil {
				return err
			}
			return q.Do(b.Context(), save.Name, save.Args, nil)
		},
		"pipelined": func(b *testing.B, q *qemu, save qmp.Command) error {
			calls, err := q.StartAll(b.Context(), qmp.StopCommand(), save)
			if err != nil {
				return err
			}
			return calls[1].Wait(b.Context(), nil)
		},
	}
	for _, version := range env.Versions() {
		for name, way := range ways {
			b.Run(version+"/"+name, func(b *testing.B) {
				q := start(b, version, guestRAM(b))
				save := qmp.XenSaveDevicesStateCommand(filepath.Join(b.TempDir(), "state"), true)
				for b.Loop() {
					b.StopTimer()
					if err := q.Cont(b.Context()); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
					if err := way(b, q, save); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

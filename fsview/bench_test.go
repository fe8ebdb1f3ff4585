package fsview_test

import (
	"os"
	"path/filepath"
	"testing"

	"qlive/fsview"
)

func BenchmarkStatus(b *testing.B) {
	tree, err := fsview.Mount(b.Context(), b.TempDir(), newFake(many(1000)), fsview.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer tree.Close(b.Context())
	name := filepath.Join(tree.Dir(), "vm00999", "status")
	for b.Loop() {
		if _, err := os.ReadFile(name); err != nil {
			b.Fatal(err)
		}
	}
}

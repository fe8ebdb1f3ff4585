package cmdline_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"qlive/internal/qemu/cmdline"
)

// FuzzReadConfig: whatever is in a file of options, it is refused, or read into options that say the same a second time.
func FuzzReadConfig(f *testing.F) {
	paths, err := filepath.Glob("testdata/field/*.conf")
	if err != nil || len(paths) == 0 {
		f.Fatal("no files of options", err)
	}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("[device \"a,b\"]\ndriver = \"x,,y\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		configs := map[string]string{"c": text}
		args, err := cmdline.Inline([]string{"-S", "-readconfig", "c"}, configs)
		if err != nil {
			return
		}
		again, err := cmdline.Inline(args, configs)
		if err != nil || !slices.Equal(args, again) {
			t.Errorf("%q is read as %q, and that as %q, %v", text, args, again, err)
		}
	})
}

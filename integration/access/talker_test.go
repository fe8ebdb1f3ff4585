package access_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"qlive/integration/env"
	"qlive/integration/guest/bootsector"
	"qlive/integration/lab"
)

// A guest that never stops writing on its console takes no more of the host's memory than it may, loses nothing of what it wrote last, and is
// handed over as any other.
func testTalker(t *testing.T, program string) {
	const keep = 64 << 10
	s := newScene(t, program, fmt.Sprintf("log_bytes: %d\n", keep))
	image := filepath.Join(s.Dir, "talker.img")
	if err := bootsector.Write(image); err != nil {
		t.Fatal(err)
	}
	vm := s.Lab.Start(lab.Spec{Bare: true, Args: bootsector.Args(image)})
	m := vm.HandOver(env.Newest, "")
	var written, held int64
	s.Eventually("old text is dropped", func() error {
		written, held = 0, 0
		files, err := filepath.Glob(filepath.Join(s.RunDir(), "vms", "vm1", "g*", "*.out"))
		if err != nil {
			return err
		}
		for _, path := range files {
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil {
				return err
			}
			written, held = written+st.Size, held+st.Blocks*512
		}
		if written < 5*keep || held > 4*keep {
			return fmt.Errorf("%d bytes written, %d held", written, held)
		}
		return nil
	})
	t.Logf("after %s: %d bytes written, %d held", m.ID, written, held)

	code, overREST := s.curl(root(), "/vms/vm1/console")
	tree, err := os.ReadFile(filepath.Join(s.Mount, "vm1", "console"))
	if code != "200" || err != nil {
		t.Fatalf("%s, %v", code, err)
	}
	for name, text := range map[string]string{"REST": overREST, "the tree": string(tree)} {
		if len(text) < keep || len(text) > 8*keep {
			t.Errorf("%s gives %d bytes", name, len(text))
		}
		_, whole, _ := strings.Cut(text, "\n") // the first line is cut
		if report, err := bootsector.Analyze(strings.NewReader(whole)); err != nil || report.Check() != nil || strings.ContainsRune(whole, 0) {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
	}
}

package bench

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Each of the readers reads once in each interval, and one that reads something wrong is heard of.
func TestReaders(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("running\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := read(t.Context(), file, func(string) error { return nil })
		time.Sleep(3*readEvery - readEvery/readerCount/2)
		synctest.Wait()
		if err := r.stop(); err != nil || r.count != 3*readerCount {
			t.Errorf("%d readings, %v", r.count, err)
		}
		r = read(t.Context(), file, func(text string) error { return errors.New("not " + text) })
		time.Sleep(readEvery)
		if err := r.stop(); err == nil || strings.Count(err.Error(), "not running") != 3 {
			t.Errorf("what was wrong is %v", err)
		}
	})
	if err := (&readers{end: func() {}}).stop(); err == nil {
		t.Error("readers that have not read are taken for readers")
	}
}

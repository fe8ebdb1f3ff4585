package faces_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/vmstate"
)

const (
	readerCount = 1000
	readPause   = time.Second // of each reader between two readings, as an agent that watches has it
)

// readings is what the readers tell in the end.
type readings struct {
	Count   int           `json:"count"`
	Errors  []string      `json:"errors"`
	Slowest time.Duration `json:"slowest"`
	Median  time.Duration `json:"median"`
}

// readTree is the readers, in a process of their own: it reads status until its standard input ends, then tells how it went.
func readTree(dir string) int {
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		buf := make([]byte, 1)
		for {
			if _, err := os.Stdin.Read(buf); err != nil {
				return
			}
		}
	}()
	var mu sync.Mutex
	var took []time.Duration
	var r readings
	var all sync.WaitGroup
	for i := range readerCount {
		all.Go(func() {
			tick := time.NewTimer(readPause * time.Duration(i) / readerCount) // spread out
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				began := time.Now()
				text, err := os.ReadFile(filepath.Join(dir, "vm1/status"))
				d := time.Since(began)
				mu.Lock()
				took = append(took, d)
				if s := vmstate.Status(strings.TrimSpace(string(text))); err != nil || s != vmstate.Running && s != vmstate.Migrating {
					r.Errors = append(r.Errors, fmt.Sprintf("%q, %v", text, err))
				}
				mu.Unlock()
				tick.Reset(readPause)
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	if r.Count = len(took); r.Count > 0 {
		r.Slowest, r.Median = took[r.Count-1], took[r.Count/2]
	}
	if json.NewEncoder(os.Stdout).Encode(r) != nil {
		return 1
	}
	return 0
}

// A thousand readers of status get their answers through handoffs, and the handoffs complete. How long both took is told, not judged.
func TestThousandReaders(t *testing.T) {
	s := newScene(t)
	versions := []string{env.Newest, env.Installed}
	const rounds, each = 3, 4 // an even number, so that every round has the same pairs
	var alone, watched []int64
	handoffs := func() (pauses []int64) {
		for i := range each {
			pauses = append(pauses, *s.vm.HandOver(versions[i%2], "").PauseUS)
		}
		return pauses
	}
	for range rounds {
		alone = append(alone, handoffs()...)
		stop := s.watchers(t)
		watched = append(watched, handoffs()...)
		r := stop()
		t.Logf("%d readings, median %v, slowest %v", r.Count, r.Median, r.Slowest)
		if len(r.Errors) > 0 || r.Count < readerCount {
			t.Errorf("%d readings, errors %q", r.Count, r.Errors[:min(3, len(r.Errors))])
		}
		if r.Slowest > 10*time.Second {
			t.Errorf("a reading took %v: it must have waited for something", r.Slowest)
		}
	}
	slices.Sort(alone)
	slices.Sort(watched)
	t.Logf("pauses in µs: alone median %d of %v, watched median %d of %v", alone[len(alone)/2], alone, watched[len(watched)/2], watched)
	s.vm.CheckMemory()
}

// watchers starts the readers, and returns once each has had the time to read; stop ends them.
func (s *scene) watchers(t *testing.T) (stop func() readings) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), readers+"="+s.Mount)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(readPause) // a round: the handoffs come in the second
	return func() (r readings) {
		t.Helper()
		stdin.Close()
		if err := json.NewDecoder(stdout).Decode(&r); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		return r
	}
}

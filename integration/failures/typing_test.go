package failures_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"qlive/integration/env"
	"qlive/integration/lab"
	"qlive/vmstate"
)

// echoes are the words that the guest has been told to say and has said, of those that begin so.
func (s *scene) echoes(t *testing.T, prefix string) (words []string) {
	t.Helper()
	for line := range strings.Lines(s.said(t)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "ECHO" && strings.HasPrefix(f[1], prefix) { // the third is a checksum
			words = append(words, f[1])
		}
	}
	return words
}

// hears waits until the guest has said all of these words, and makes sure that it has said each once and in order.
func (s *scene) hears(t *testing.T, prefix string, want []string) {
	t.Helper()
	for deadline := time.Now().Add(lab.Limit); ; time.Sleep(20 * time.Millisecond) {
		got := s.echoes(t, prefix)
		if slices.Equal(got, want) {
			return
		}
		if len(got) >= len(want) && len(got) > 0 && got[len(got)-1] == want[len(want)-1] || time.Now().After(deadline) {
			at := 0
			for at < min(len(got), len(want)) && got[at] == want[at] {
				at++
			}
			t.Fatalf("the guest has heard %d words of %d; from word %d on it is %q, want %q", len(got), len(want), at, got[at:min(at+3, len(got))], want[at:min(at+3, len(want))])
		}
	}
}

// say types so many words, all in one, for the guest to repeat.
func (s *scene) say(t *testing.T, prefix string, n int) (words []string) {
	t.Helper()
	var text strings.Builder
	for i := range n {
		words = append(words, fmt.Sprintf("%s%d", prefix, i))
		text.WriteString("echo " + words[i] + "\n")
	}
	if err := s.Client.Type(t.Context(), s.vm.Name, []byte(text.String())); err != nil {
		t.Fatal(err)
	}
	return words
}

// What is typed on the console reaches the guest, all of it, once and in order: though the QEMU that it was typed for has not read it yet
// as it gives the guest away, and whoever has the guest in the end.
func typing(t *testing.T, s *scene) {
	for _, way := range vmstate.Ways() {
		if !s.canStand(way) {
			s.works(t, env.Newest, vmstate.WayDeviceState)
		}
		t.Run(string(way)+"/a guest that stands", func(t *testing.T) {
			s.pause(t)
			prefix := string(way) + "-stands-"
			words := s.say(t, prefix, 200) // far more than its serial port takes
			s.standing(t, s.other(), way, "paused")
			if heard := s.echoes(t, prefix); len(heard) > 0 {
				t.Errorf("a guest that stands has said %q", heard)
			}
			s.resume(t)
			s.hears(t, prefix, words)
		})
		t.Run(string(way)+"/undone", func(t *testing.T) {
			prefix := string(way) + "-undone-"
			var words, more []string
			s.at(t, "flip.warm-target.after", func() error { words = s.say(t, prefix, 150); return nil })
			s.at(t, "flip.load.before", func() error {
				more = s.say(t, prefix+"more-", 20)
				return errors.New("as the test wants it")
			})
			m := s.vm.Wait(s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(s.other()), Way: way}).ID)
			want{kind: vmstate.QEMU, step: "load", says: "as the test wants it"}.check(t, m)
			s.hears(t, prefix, append(words, more...))
			s.vm.CheckMemory()
		})
	}
}

// Somebody who goes on typing while the guest is handed over again and again does not notice it either.
func typingOnAndOn(t *testing.T, s *scene) {
	const prefix = "on-"
	var words []string
	stop := make(chan struct{})
	var typist sync.WaitGroup
	typist.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			word := fmt.Sprintf("%s%d", prefix, len(words))
			if err := s.Client.Type(t.Context(), s.vm.Name, []byte("echo "+word+"\n")); err != nil {
				t.Errorf("typing %q: %v", word, err)
				return
			}
			words = append(words, word)
			time.Sleep(time.Millisecond) // faster than a person, slower than the guest reads
		}
	})
	end := sync.OnceFunc(func() { close(stop); typist.Wait() })
	defer end()
	for range 2 {
		for _, way := range vmstate.Ways() {
			if m := s.vm.Wait(s.begin(t, vmstate.MigrationSpec{Binary: s.Env.QEMU(s.other()), Way: way}).ID); m.Phase != vmstate.Completed {
				t.Fatalf("handing over by %s: %s: %+v", way, m.Phase, m.Error)
			}
		}
	}
	end()
	t.Logf("%d words", len(words))
	s.hears(t, prefix, words)
	s.vm.CheckMemory()
}

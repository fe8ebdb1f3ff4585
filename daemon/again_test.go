package daemon

import (
	"testing"
	"time"
)

func TestNextRestart(t *testing.T) {
	for _, test := range []struct {
		name     string
		restarts int
		ran      time.Duration
		wait     time.Duration
		number   int
		ok       bool
	}{
		{"the first time", 0, time.Second, time.Second, 1, true},
		{"once more", 1, time.Second, 2 * time.Second, 2, true},
		{"the last time", 4, 9 * time.Minute, 16 * time.Second, 5, true},
		{"too often", 5, 9 * time.Minute, 0, 5, false},
		{"too often, but long ago", 5, 10 * time.Minute, time.Second, 1, true},
		{"it never came up", 3, 0, 8 * time.Second, 4, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			wait, number, ok := nextRestart(test.restarts, test.ran)
			if wait != test.wait || number != test.number || ok != test.ok {
				t.Errorf("%v, %d, %v; want %v, %d, %v", wait, number, ok, test.wait, test.number, test.ok)
			}
		})
	}
	for n := range mostRetries {
		if wait, number, ok := nextRestart(n, 0); !ok || wait > longestWait || wait < firstDelay || number != n+1 {
			t.Errorf("restart %d: %v, %d, %v", n, wait, number, ok)
		}
	}
}

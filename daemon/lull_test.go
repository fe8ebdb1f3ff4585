package daemon

import (
	"testing"
	"testing/synctest"
	"time"
)

// A lull ends when it is told to, and else by itself; another handoff's neither lengthens it nor is ended by its timer.
func TestLull(t *testing.T) {
	const step = longestLull * 3 / 10
	over := func(c <-chan struct{}) bool {
		synctest.Wait()
		if c == nil {
			return true
		}
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	for _, test := range []struct {
		name  string
		steps string // b: begin, e: end, w: see a step later whether there is one: 0 or 1
		want  string
	}{
		{"none", "w", "0"},
		{"ended", "bwew", "1 0"},
		{"by itself", "bwwwww", "1 1 1 0 0"},
		{"ended twice", "eebweew", "1 0"},
		{"a second joins it", "bwwbwwww", "1 1 1 0 0 0"},
		{"a second after the first", "bwebwwwww", "1 1 1 1 0 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, got := new(Daemon), ""
				for _, s := range test.steps {
					switch s {
					case 'b':
						d.lull.begin()
					case 'e':
						before := d.Lull()
						d.lull.end()
						if !over(before) || d.Lull() != nil {
							t.Error("a lull that was ended goes on")
						}
					case 'w':
						time.Sleep(step)
						c := d.Lull()
						switch {
						case c == nil:
							got += " 0"
						case over(c):
							t.Error("the lull that there is is over")
						default:
							got += " 1"
						}
					}
				}
				if got != " "+test.want {
					t.Errorf("every %s there was a lull:%s, want %s", step, got, test.want)
				}
			})
		})
	}
}

// Who waits in a lull goes on with its end.
func TestLullEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(Daemon)
		d.lull.begin()
		began := time.Now()
		<-d.Lull()
		if took := time.Since(began); took != longestLull {
			t.Errorf("it has ended by itself after %s", took)
		}
	})
}

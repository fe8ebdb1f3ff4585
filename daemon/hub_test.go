package daemon

import (
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"qlive/vmstate"
)

func noState() vmstate.State { return vmstate.State{Version: "test"} }

// take reads what is there.
func take(s vmstate.Subscription) (events []vmstate.Event, ended bool) {
	for {
		select {
		case e, ok := <-s.Events:
			if !ok {
				return events, true
			}
			events = append(events, e)
		default:
			return events, false
		}
	}
}

func seqs(events []vmstate.Event) (list []uint64) {
	for _, e := range events {
		list = append(list, e.Seq)
	}
	return list
}

func TestHubSubscribe(t *testing.T) {
	for _, tt := range []struct {
		name    string
		emitted int
		after   uint64
		reset   bool
		missed  []uint64
	}{
		{"from nothing", 0, 0, true, nil},
		{"from the beginning", 3, 0, true, nil},
		{"having seen all", 3, 3, false, nil},
		{"having missed some", 5, 3, false, []uint64{4, 5}},
		{"from another daemon's number", 3, 4, true, nil},
		{"the oldest that is kept", 2 * keptEvents, 1, false, nil},
		{"what is no longer kept", 2*keptEvents + 1, 1, true, nil},
		{"what is still kept after that", 2*keptEvents + 1, keptEvents + 1, false, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHub()
			for range tt.emitted {
				h.emit(vmstate.Event{Type: vmstate.EventVM})
			}
			s := h.subscribe(tt.after, noState)
			defer s.Close()
			events, ended := take(s)
			if ended {
				t.Fatal("the stream has ended")
			}
			if tt.reset {
				if len(events) != 1 || events[0].Type != vmstate.EventReset || events[0].Seq != uint64(tt.emitted) {
					t.Errorf("got %+v, want a reset with number %d", events, tt.emitted)
				}
				if state, ok := events[0].Data.(vmstate.State); !ok || state.Version != "test" {
					t.Errorf("the reset holds %+v", events[0].Data)
				}
				return
			}
			want := tt.missed
			for n := tt.after + 1; tt.missed == nil && n <= uint64(tt.emitted); n++ {
				want = append(want, n)
			}
			if got := seqs(events); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// A listener that does not read is cut off with a word, and holds up nobody.
func TestHubSlowListener(t *testing.T) {
	h := newHub()
	slow, quick := h.subscribe(0, noState), h.subscribe(0, noState)
	defer slow.Close()
	defer quick.Close()
	var seen []vmstate.Event
	for range 2 * listenerRoom {
		h.emit(vmstate.Event{Type: vmstate.EventVM})
		some, _ := take(quick)
		seen = append(seen, some...)
	}
	if len(seen) != 1+2*listenerRoom {
		t.Errorf("the quick listener has %d events, want %d", len(seen), 1+2*listenerRoom)
	}
	events, ended := take(slow)
	if last := events[len(events)-1]; !ended || last.Type != vmstate.EventLost {
		t.Fatalf("the slow listener ends with %+v, ended: %v", last, ended)
	}
	// It can come back with the last number that it has seen, and misses nothing.
	back := h.subscribe(events[len(events)-2].Seq, noState)
	defer back.Close()
	missed, _ := take(back)
	if got := append(seqs(events[1:len(events)-1]), seqs(missed)...); !slices.Equal(got, seqs(seen[1:])) {
		t.Errorf("got %v", got)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.listeners) != 2 {
		t.Errorf("%d listeners are kept, want 2", len(h.listeners))
	}
}

func TestHubClose(t *testing.T) {
	h := newHub()
	h.emit(vmstate.Event{Type: vmstate.EventVM})
	before := h.subscribe(0, noState)
	h.close()
	h.close()
	after := h.subscribe(0, noState)
	h.emit(vmstate.Event{Type: vmstate.EventVM})
	for name, s := range map[string]vmstate.Subscription{"before": before, "after": after} {
		if events, ended := take(s); len(events) != 1 || !ended {
			t.Errorf("%s: %v, ended: %v", name, events, ended)
		}
		s.Close()
		s.Close()
	}
}

// Whoever comes and goes whenever, gaps in the numbers are always announced.
func TestHubProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHub()
		type place struct {
			sub  vmstate.Subscription
			last uint64
			done bool
		}
		var places []*place
		read := func(p *place, n int) {
			for range n {
				select {
				case e, ok := <-p.sub.Events:
					switch {
					case !ok:
						p.done = true
						return
					case e.Type == vmstate.EventLost:
					case e.Type != vmstate.EventReset && e.Seq != p.last+1:
						t.Fatalf("%d follows %d", e.Seq, p.last)
					default:
						p.last = e.Seq
					}
				default:
					return
				}
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"emit", "emit", "join", "read", "return"}).Draw(t, "step") {
			case "emit":
				for range rapid.IntRange(1, 700).Draw(t, "events") {
					h.emit(vmstate.Event{Type: vmstate.EventVM})
				}
			case "join":
				places = append(places, &place{sub: h.subscribe(0, noState)})
			case "read":
				if len(places) > 0 {
					read(rapid.SampledFrom(places).Draw(t, "who"), rapid.IntRange(1, 900).Draw(t, "reads"))
				}
			case "return":
				if len(places) > 0 {
					p := rapid.SampledFrom(places).Draw(t, "who")
					p.sub.Close()
					p.sub, p.done = h.subscribe(p.last, noState), false
				}
			}
		}
		for _, p := range places {
			read(p, 1<<20)
			if !p.done && p.last != h.seq {
				t.Fatalf("a listener that was not cut off has seen %d of %d", p.last, h.seq)
			}
			p.sub.Close()
		}
	})
}

func TestHubConcurrently(t *testing.T) {
	r := newRegistry("test", newHub())
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 200 {
				r.putVM(vmstate.VM{Name: "vm1"})
			}
		})
		all.Go(func() {
			for range 20 {
				s := r.Subscribe(0)
				last := uint64(0)
				for range 10 {
					e := <-s.Events
					if last != 0 && e.Seq != last+1 {
						t.Errorf("%d follows %d", e.Seq, last)
					}
					if last = e.Seq; last >= 790 {
						break
					}
				}
				s.Close()
			}
		})
	}
	all.Wait()
	if s := r.Snapshot(); s.Seq != 800 {
		t.Errorf("the snapshot has number %d, want 800", s.Seq)
	}
}

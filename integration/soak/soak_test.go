package soak

import (
	"cmp"
	"os"
	"os/signal"
	"reflect"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"qlive/integration/kills/stage"
)

// inTests is how long the soak of the tests takes.
const inTests = 2 * time.Minute

// setting reads a number from the environment.
func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		t.Fatalf("%s=%s is no number", name, text)
	}
	return n
}

// The same seed and epoch draw the same.
func TestEpochsCanBeDrawnAgain(t *testing.T) {
	for number := range 200 {
		if a, b := NewEpoch(7, number), NewEpoch(7, number); !reflect.DeepEqual(a, b) {
			t.Fatalf("epoch %d: %+v and %+v", number, a, b)
		}
	}
	if reflect.DeepEqual(NewEpoch(7, 1).Strike, NewEpoch(8, 1).Strike) && reflect.DeepEqual(NewEpoch(7, 2), NewEpoch(8, 2)) {
		t.Error("the seed makes no difference")
	}
}

// Guests are handed over at random while everyone is killed; none is lost but with its only runner.
func TestSoak(t *testing.T) {
	seed := setting(t, "SEED", uint64(time.Now().Unix()))
	handoffs := int(setting(t, "N", 0))
	// An interrupt ends the soak in good order, too.
	enough, stop := signal.NotifyContext(t.Context(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if text := os.Getenv("SOAK"); text != "" || handoffs == 0 {
		long, err := time.ParseDuration(cmp.Or(text, inTests.String()))
		if err != nil {
			t.Fatal(err)
		}
		defer time.AfterFunc(long, stop).Stop()
	}
	t.Logf("SEED=%d", seed)
	st, err := stage.Open(t.Context(), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(t.Failed() && os.Getenv("KEEP") != ""); err != nil {
			t.Error(err)
		}
	}()
	s := New(st, seed, t.Logf)
	if err := s.Run(t.Context(), int(setting(t, "FROM", 0)), handoffs, enough.Done()); err != nil {
		t.Error(err)
	}
	if err := s.Finish(t.Context()); err != nil {
		t.Error(err)
	}
	tally := s.Tally()
	t.Logf("SEED=%d\n%s", seed, tally.Table())
	if tally.Lost > 0 {
		t.Errorf("%d guests were lost, or found in a wrong state", tally.Lost)
	}
	if tally.Attempted == 0 || tally.AllKills() == 0 {
		t.Error("nothing has happened")
	}
}

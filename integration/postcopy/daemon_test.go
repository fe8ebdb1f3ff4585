package postcopy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"qlive/flip"
	"qlive/integration/env"
	"qlive/integration/postcopy/stranger"
	"qlive/internal/relay"
	"qlive/vmstate"
)

// inChild is set in the process that plays the daemon: it says what to do, as JSON.
const inChild = "QLIVE_TEST_POSTCOPY"

// order is what the process that plays the daemon has to do.
type order struct {
	Guest  stranger.Running
	To     string
	Stop   vmstate.Phase // once this is recorded it does nothing more
	Record string        // file for the records
}

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == relay.Verb {
		os.Exit(relay.Main())
	}
	text := os.Getenv(inChild)
	if text == "" {
		os.Exit(m.Run())
	}
	if err := playDaemon(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// playDaemon hands a guest over, and hangs when it has recorded what it was told.
func playDaemon(text string) error {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	e, err := env.Locate()
	if err != nil {
		return err
	}
	ctx := context.Background()
	g, err := stranger.Attach(ctx, e, o.Guest)
	if err != nil {
		return err
	}
	journal, err := os.Create(o.Record)
	if err != nil {
		return err
	}
	m, err := g.Move(o.To, stranger.Options{Relay: true, Recorded: func(r flip.Record) {
		if err := json.NewEncoder(journal).Encode(r); err != nil {
			panic(err)
		}
		if r.Phase == o.Stop {
			select {} // until it is killed
		}
	}})
	if err != nil {
		return err
	}
	_, err = m.Run(ctx)
	return errors.Join(err, errors.New("it has come to an end"))
}

// A daemon that is killed in the middle is followed by one that finds the guest on its way, waits for the rest, and ends the source.
func TestDaemonKilled(t *testing.T) {
	e := locate(t)
	for name, o := range map[string]order{
		"as it had committed":     {To: env.Newest, Stop: vmstate.Committing},
		"as pages came":           {To: env.Stable, Stop: vmstate.Draining},
		"before it had committed": {To: env.Stable, Stop: vmstate.Switching},
	} {
		t.Run(name, func(t *testing.T) {
			g := boot(t, e, small(env.Installed))
			records := dieWith(t, g, o)
			source, target, err := g.TakeUp(t.Context(), records[len(records)-1])
			if err != nil {
				t.Fatal(err)
			}
			out := flip.Recover(t.Context(), recovery(records, source, target))
			want, keeper := vmstate.Completed, target
			if o.Stop == vmstate.Switching {
				want, keeper = vmstate.RolledBack, source
			}
			if out.Migration.Phase != want || out.Keeper != keeper {
				t.Fatalf("ended %s with %v: %v; log %+v", out.Migration.Phase, out.Keeper, out.Err, out.Migration.Log)
			}
			unharmed(t, g)
			if _, over := source.Process.Exited(); over != (want == vmstate.Completed) {
				t.Errorf("the source has ended: %v", over)
			}
		})
	}
}

// dieWith lets another process hand the guest over until it has recorded what it was to record, kills it, and gives its records.
func dieWith(t *testing.T, g *stranger.Guest, o order) []flip.Record {
	t.Helper()
	o.Guest, o.Record = g.HangUp(), filepath.Join(t.TempDir(), "records")
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), inChild+"="+string(text))
	var said strings.Builder
	child.Stderr = &said
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	deadline := time.Now().Add(60 * time.Second)
	for {
		records := readRecords(t, o.Record)
		if n := len(records); n > 0 && records[n-1].Phase == o.Stop {
			if err := child.Process.Kill(); err != nil {
				t.Error(err)
			}
			<-ended
			return records
		}
		select {
		case err := <-ended:
			t.Fatalf("the daemon has ended: %v: %s", err, said.String())
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			_ = child.Process.Kill() // nothing depends on it any more
			<-ended
			t.Fatalf("waited 60 s for a record of %s; there are %+v", o.Stop, records)
		}
	}
}

// readRecords reads what has been written so far, without a last line that is not whole.
func readRecords(t *testing.T, path string) (list []flip.Record) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var r flip.Record
		if json.Unmarshal([]byte(line), &r) == nil {
			list = append(list, r)
		}
	}
	return list
}

// recovery is what a daemon that comes after knows. What it records goes nowhere.
func recovery(records []flip.Record, source, target *flip.Side) flip.Recovery {
	return flip.Recovery{Records: records, Source: source, Target: target, Journal: nowhere{}, Gate: new(sync.Mutex)}
}

type nowhere struct{}

func (nowhere) Record(flip.Record) error { return nil }

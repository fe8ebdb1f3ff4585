package restapi

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestKeyringForgetsAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeyring()
		accepted := 0
		ask := func() string {
			id, err := k.once(t.Context(), "key", "body", func() (string, error) {
				accepted++
				return fmt.Sprint("mig-", accepted), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		if a, b := ask(), ask(); a != "mig-1" || b != "mig-1" {
			t.Errorf("%s, %s", a, b)
		}
		time.Sleep(keyLife - time.Second)
		if id := ask(); id != "mig-1" {
			t.Errorf("forgotten early: %s", id)
		}
		time.Sleep(2 * time.Second)
		if id := ask(); id != "mig-2" {
			t.Errorf("kept too long: %s", id)
		}
	})
}

func TestKeyringIsBounded(t *testing.T) {
	k := newKeyring()
	for i := range 3 * keyCount {
		if _, err := k.once(t.Context(), fmt.Sprint(i), "", func() (string, error) { return "", nil }); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.entries) > keyCount || len(k.order) != len(k.entries) {
		t.Errorf("%d entries, %d in order", len(k.entries), len(k.order))
	}
}

func TestKeyringWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeyring()
		release := make(chan struct{})
		boom := errors.New("boom")
		go k.once(t.Context(), "key", "body", func() (string, error) { <-release; return "", boom }) //nolint:errcheck // seen below
		synctest.Wait()
		gone, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if _, err := k.once(gone, "key", "body", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a waiter that left got %v", err)
		}
		got := make(chan error)
		go func() {
			_, err := k.once(t.Context(), "key", "body", nil)
			got <- err
		}()
		synctest.Wait()
		close(release)
		if err := <-got; !errors.Is(err, boom) {
			t.Errorf("the waiter got %v, want what the first got", err)
		}
		synctest.Wait()
		if len(k.entries) != 0 || len(k.order) != 0 {
			t.Errorf("a refusal is remembered: %v", k.order)
		}
	})
}

package restapi

import (
	"context"
	"sync"
	"time"

	"qlive/vmstate"
)

// Bounds of the memory for idempotency keys.
const (
	keyLife  = 24 * time.Hour
	keyCount = 1024
)

// keyring remembers which migration was accepted for which idempotency key, so that a client that lost the answer
// can ask again. It is kept in memory; a migration that was accepted remembers its key beyond the daemon's end.
type keyring struct {
	mu      sync.Mutex
	entries map[string]*keyEntry
	order   []string // of acceptance, oldest first
}

type keyEntry struct {
	body string        // what was asked for
	at   time.Time     // when
	done chan struct{} // closed once id and err are set
	id   string
	err  error
}

func newKeyring() *keyring { return &keyring{entries: map[string]*keyEntry{}} }

// once calls accept, unless it has been called for key before; then it gives the id that came of it, waiting for
// it if need be. What failed is forgotten, so that it can be tried again. An empty key is never remembered.
func (k *keyring) once(ctx context.Context, key, body string, accept func() (string, error)) (string, error) {
	if key == "" {
		return accept()
	}
	mine := &keyEntry{body: body, at: time.Now(), done: make(chan struct{})}
	if theirs := k.claim(key, mine); theirs != nil {
		if theirs.body != body {
			return "", usedAgain(key)
		}
		select {
		case <-theirs.done:
			return theirs.id, theirs.err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	mine.id, mine.err = accept()
	if mine.err != nil {
		k.forget(key, mine)
	}
	close(mine.done)
	return mine.id, mine.err
}

// usedAgain refuses a key that has been used for another request.
func usedAgain(key string) error {
	return vmstate.Errorf(vmstate.Invalid, "cannot use the idempotency key %q again for another request", key).
		With("use a new key for each request")
}

// claim enters mine under key, or returns the entry that is there.
func (k *keyring) claim(key string, mine *keyEntry) *keyEntry {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.order) > 0 {
		oldest := k.order[0]
		if len(k.order) < keyCount && mine.at.Sub(k.entries[oldest].at) < keyLife {
			break
		}
		delete(k.entries, oldest)
		k.order = k.order[1:]
	}
	if theirs, ok := k.entries[key]; ok {
		return theirs
	}
	k.entries[key] = mine
	k.order = append(k.order, key)
	return nil
}

func (k *keyring) forget(key string, mine *keyEntry) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.entries[key] != mine {
		return // it was pushed out meanwhile
	}
	delete(k.entries, key)
	for i, other := range k.order {
		if other == key {
			k.order = append(k.order[:i:i], k.order[i+1:]...)
			return
		}
	}
}

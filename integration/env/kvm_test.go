package env_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"qlive/integration/env"
)

// TestKVM checks the probe against what the device itself shows.
func TestKVM(t *testing.T) {
	err := env.KVM()
	if _, stat := os.Stat("/dev/kvm"); errors.Is(stat, os.ErrNotExist) {
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("without /dev/kvm the probe says %v", err)
		}
		return
	}
	if err != nil && !strings.Contains(err.Error(), "/dev/kvm") {
		t.Errorf("the probe does not name the device: %v", err)
	}
	if err != nil && os.Geteuid() == 0 && errors.Is(err, os.ErrPermission) {
		t.Errorf("root is refused: %v", err)
	}
}

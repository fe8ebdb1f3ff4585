package lab

import (
	"os"
	"path/filepath"
	"testing"
)

// UEFI is how a guest gets UEFI firmware, with a flash of its own for the variables.
func (l *Lab) UEFI(t testing.TB) []string {
	t.Helper()
	vars, err := os.ReadFile(l.Env.OVMFVars)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(l.Dir, "vars.fd")
	if err := os.WriteFile(own, vars, 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + l.Env.OVMFCode,
		"-drive", "if=pflash,format=raw,unit=1,file=" + own,
	}
}

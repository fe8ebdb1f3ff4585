package guide_test

import (
	"os"
	"strings"
	"testing"
)

// TestReadme runs the commands that the README begins with, on the scene of the guide.
func TestReadme(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the README is for root, and so is its test")
	}
	commands := firstBlock(t, "../../../README.md")
	if len(commands) < 6 || !strings.HasPrefix(commands[0], "qlive daemon ") {
		t.Fatalf("the README begins with %q", commands)
	}
	s := newShell(t)
	for _, command := range append(commands,
		// The last one has asked for a handoff, and been told that it is accepted.
		`there() { test "$(cat /mnt/qlive/vm1/qemu_version) $(cat /mnt/qlive/vm1/status)" = "11.1.3 running"; }`,
		`for i in $(seq 600); do there && break; sleep 0.1; done; there`) {
		said, code, err := s.run(command)
		if err == nil && strings.HasPrefix(command, "qlive daemon ") {
			err = s.started(command)
		}
		t.Logf("%s\n%s", command, said)
		if err != nil || code != "0" {
			t.Fatalf("%s: exit %s, %v", command, code, err)
		}
		if strings.HasPrefix(command, "curl ") && !strings.Contains(said, `"phase":"planned"`) {
			t.Errorf("%s: it is not accepted: %s", command, said)
		}
	}
}

// firstBlock is the first indented block of a page.
func firstBlock(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var block []string
	for line := range strings.Lines(string(text)) {
		command, indented := strings.CutPrefix(line, "    ")
		switch {
		case indented:
			block = append(block, strings.TrimSpace(command))
		case len(block) > 0:
			return block
		}
	}
	return block
}

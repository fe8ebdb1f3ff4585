package systemd_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const packaging = "../../packaging/"

// setting is a line of a unit.
type setting struct{ section, name, value string }

func unit(t *testing.T, name string) (list []setting) {
	t.Helper()
	text, err := os.ReadFile(packaging + name)
	if err != nil {
		t.Fatal(err)
	}
	section := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if key, value, ok := strings.Cut(line, "="); ok && line[0] != '#' {
			list = append(list, setting{section, key, value})
		} else if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[]")
		}
	}
	if len(list) == 0 {
		t.Fatalf("%s says nothing", name)
	}
	return list
}

// value is what a unit says for a name; empty if it says nothing.
func value(list []setting, section, name string) string {
	i := slices.IndexFunc(list, func(s setting) bool { return s.section == section && s.name == name })
	if i < 0 {
		return ""
	}
	return list[i].value
}

// systemd finds nothing wrong with the units, nor anything that it does not know.
func TestVerify(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"qlive.service", "qlive.socket"} {
		text, err := os.ReadFile(packaging + name)
		if err != nil {
			t.Fatal(err)
		}
		// The program is not installed where the tests run, and verify looks for it.
		installed := strings.Replace(string(text), "/usr/bin/qlive ", "/bin/true ", 1)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(installed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verify := func() string {
		cmd := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", filepath.Join(dir, "qlive.service"), filepath.Join(dir, "qlive.socket"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return string(out)
	}
	if out := verify(); out != "" {
		t.Errorf("systemd-analyze verify says:\n%s", out)
	}
	file := filepath.Join(dir, "qlive.service")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), "KillMode=", "KillMood=", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := verify(); !strings.Contains(out, "KillMood") {
		t.Errorf("it finds no fault with a setting that there is not: %q", out)
	}
}

// The group is one that systemd-sysusers makes.
func TestSysusers(t *testing.T) {
	file, err := filepath.Abs(packaging + "qlive.sysusers")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-sysusers", "--dry-run", "--root="+t.TempDir(), file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "qlive") {
		t.Errorf("%v: %s", err, out)
	}
}

// What the guests live on is what the units say.
func TestPromises(t *testing.T) {
	service, socket := unit(t, "qlive.service"), unit(t, "qlive.socket")
	for _, c := range []struct {
		unit                 []setting
		section, name, value string
	}{
		{service, "Unit", "StartLimitIntervalSec", "0"},
		{service, "Service", "Type", "notify"},
		{service, "Service", "NotifyAccess", "main"},
		{service, "Service", "KillMode", "process"},
		{service, "Service", "OOMPolicy", "continue"},
		{service, "Service", "Restart", "always"},
		{service, "Service", "RuntimeDirectory", "qlive"},
		{service, "Service", "RuntimeDirectoryPreserve", "yes"},
		{service, "Service", "StateDirectory", "qlive"},
		{service, "Service", "FileDescriptorStoreMax", "1024"},
		{service, "Service", "WatchdogSec", "30"},
		{socket, "Socket", "ListenStream", "/run/qlive/qlive.sock"},
		{socket, "Socket", "FileDescriptorName", "qlive.sock"},
		{socket, "Socket", "SocketMode", "0660"},
		{socket, "Socket", "SocketUser", "root"},
		{socket, "Socket", "SocketGroup", "qlive"},
	} {
		if got := value(c.unit, c.section, c.name); got != c.value {
			t.Errorf("[%s] %s=%s, want %s", c.section, c.name, got, c.value)
		}
	}
}

// No setting gives the daemon a mount namespace, which would hide the tree: those of systemd's exec_needs_mount_namespace.
func TestTheMountIsSeen(t *testing.T) {
	hide := regexp.MustCompile(`^(Root(Directory|Image.*|Hash.*|Verity|Ephemeral)|Private(Tmp|Devices|Mounts|IPC|Users|Network)|Protect(System|Home|Proc|Kernel.*|ControlGroups|Hostname)|ProcSubset|` +
		`(ReadOnly|ReadWrite|Inaccessible|Exec|NoExec)(Paths|Directories)|Bind(ReadOnly)?Paths|TemporaryFileSystem|Mount(Flags|APIVFS|Images)|Extension(Images|Directories)|` +
		`LogNamespace|IPCNamespacePath|NetworkNamespacePath|DynamicUser|JoinsNamespaceOf)$`)
	for _, s := range unit(t, "qlive.service") {
		if hide.MatchString(s.name) {
			t.Errorf("[%s] %s=%s would hide the tree from the host, or the guests from their network", s.section, s.name, s.value)
		}
	}
}

// For every way to harden the service that systemd knows and that is not taken, the README says why.
func TestEveryHardeningIsArgued(t *testing.T) {
	readme, err := os.ReadFile(packaging + "README.md")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--json=short", packaging+"qlive.service").Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var items []struct {
		Name string
		Set  *bool
	}
	if err := json.Unmarshal(out, &items); err != nil {
		t.Fatal(err)
	}
	if len(items) < 50 {
		t.Fatalf("only %d items", len(items))
	}
	capability := regexp.MustCompile(`CAP_(?:[A-Z0-9]+_)?`)
	for _, item := range items {
		if item.Set != nil && *item.Set {
			continue
		}
		word := strings.FieldsFunc(item.Name, func(r rune) bool { return r == '=' || r == '/' })[0] + "="
		if word == "CapabilityBoundingSet=" {
			word = capability.FindString(item.Name)
		}
		if !strings.Contains(string(readme), word) {
			t.Errorf("%s is not taken, and nothing says why (looked for %s)", item.Name, word)
		}
	}
}

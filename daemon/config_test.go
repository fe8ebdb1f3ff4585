package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"qlive/vmstate"
)

func TestLoadConfig(t *testing.T) {
	none := func(string) string { return "" }
	write := func(t *testing.T, text string) string {
		t.Helper()
		path := filepath.Join(t.TempDir(), "qlive.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("file overrides default, environment overrides file", func(t *testing.T) {
		path := write(t, "socket: /a/sock\nmount: /a/mnt\nallowed_binaries: [/opt/*/qemu]\n")
		c, err := LoadConfig(path, func(k string) string { return map[string]string{"QLIVE_MOUNT": "/b/mnt"}[k] })
		if err != nil {
			t.Fatal(err)
		}
		if c.Socket != "/a/sock" || c.Mount != "/b/mnt" || c.RunDir != DefaultConfig().RunDir || len(c.AllowedBinaries) != 1 {
			t.Errorf("got %+v", c)
		}
	})
	t.Run("access", func(t *testing.T) {
		c, err := LoadConfig(write(t, `
others: read
hosts: [a.example]
limits: {idle_time: 30s, streams: 7}
tls: {roles: [{common_name: a, role: operate}]}
`), none)
		if err != nil || c.Others != vmstate.RoleRead || len(c.Hosts) != 1 || c.Limits.IdleTime != 30*time.Second || c.Limits.Streams != 7 || c.TLS.Roles[0].Role != vmstate.RoleOperate {
			t.Errorf("got %+v, %v", c, err)
		}
	})
	t.Run("empty file", func(t *testing.T) {
		c, err := LoadConfig(write(t, ""), none)
		if err != nil || c.Socket != DefaultConfig().Socket {
			t.Errorf("got %+v, %v", c, err)
		}
	})
	t.Run("unknown key names its line", func(t *testing.T) {
		_, err := LoadConfig(write(t, "socket: /a\nsokcet: /b\n"), none)
		if err == nil || !strings.Contains(err.Error(), "line 2") || !strings.Contains(err.Error(), "sokcet") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("named file is missing", func(t *testing.T) {
		if _, err := LoadConfig(filepath.Join(t.TempDir(), "no.yaml"), none); err == nil {
			t.Error("no error")
		}
	})
}

func TestConfigCheck(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		change     func(*Config)
	}{
		{"default", "", func(*Config) {}},
		{"no tree", "", func(c *Config) { c.Mount = "none" }},
		{"relative", "not an absolute path", func(c *Config) { c.RunDir = "run" }},
		{"socket too long", "at most 107", func(c *Config) { c.Socket = "/" + strings.Repeat("x", 107) }},
		{"mount in run dir", "overlaps", func(c *Config) { c.Mount = "/run/qlive/mnt" }},
		{"run dir in mount", "overlaps", func(c *Config) { c.Mount = "/run" }},
		{"beside", "", func(c *Config) { c.Mount = "/run/qlive-tree" }},
		{"others read", "", func(c *Config) { c.Others = vmstate.RoleRead }},
		{"others operate", "cannot let others operate", func(c *Config) { c.Others = vmstate.RoleOperate }},
		{"no log", "log_bytes", func(c *Config) { c.LogBytes = -1 }},
		{"negative limit", "limits.streams", func(c *Config) { c.Limits.Streams = -1 }},
		{"TCP without TLS", "is not set", func(c *Config) { c.Listen = "127.0.0.1:1" }},
		{"TLS without TCP", "without listen", func(c *Config) { c.TLS.Key = "/key" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := DefaultConfig()
			tt.change(&c)
			err := c.Check()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

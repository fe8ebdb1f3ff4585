package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"qlive/restapi"
	"qlive/vmstate"
)

// Config is what an administrator sets. Every path can be moved, so that several daemons can run on one host.
type Config struct {
	Socket   string `yaml:"socket"`    // unix socket of the REST API
	Mount    string `yaml:"mount"`     // where the tree is mounted; "none" for no tree
	RunDir   string `yaml:"run_dir"`   // sockets, logs and journals; should be a tmpfs
	StateDir string `yaml:"state_dir"` // definitions
	Group    string `yaml:"group"`     // whose members may operate VMs; none if it does not exist
	// Others is what all other users of the host may do: "none", or "read" to let them see everything.
	Others vmstate.Role   `yaml:"others"`
	Listen string         `yaml:"listen"` // HOST:PORT of the REST API over TCP; empty for none
	TLS    restapi.TLS    `yaml:"tls"`    // for listen
	Hosts  []string       `yaml:"hosts"`  // names under which the API is asked for, beside localhost, addresses and those of tls.certificate
	Limits restapi.Limits `yaml:"limits"`
	// AllowedBinaries are patterns (path.Match, absolute) of QEMUs that may be run. If empty, any that is root's and that nobody else can
	// write; a pattern only narrows that.
	AllowedBinaries []string `yaml:"allowed_binaries"`
	// User is whom QEMUs run as, by name or number; as the daemon if empty. {vm} in it stands for the VM's name, so that each has a user of
	// its own. A guest that runs keeps the one it was started with.
	User string `yaml:"user"`
	// Cgroup is where the cgroup of each VM lies, relative to the mount point of cgroup v2: "auto" for qlive, or for a name made of run_dir if
	// that has been moved; "none", or nothing, for no cgroups.
	Cgroup   string `yaml:"cgroup"`
	LogLevel string `yaml:"log_level"`
	// LogBytes is how much is kept of what a VM's guest writes on its console, and as much again of what its QEMUs write on standard error, and
	// of the transcripts of their monitors: the newest. 0 takes the default, 64 MiB.
	LogBytes int64 `yaml:"log_bytes"`
}

// DefaultConfig is what holds where nothing else is said.
func DefaultConfig() Config {
	return Config{
		Socket: "/run/qlive/qlive.sock", Mount: "/mnt/qlive", RunDir: "/run/qlive", StateDir: "/var/lib/qlive",
		Group: "qlive", Cgroup: "auto", LogLevel: "info",
	}
}

// DefaultConfigFile is read if it is there and no other is named.
const DefaultConfigFile = "/etc/qlive/qlive.yaml"

// LoadConfig reads the file, then the environment (QLIVE_SOCKET, QLIVE_MOUNT, QLIVE_RUN_DIR, QLIVE_STATE_DIR). An empty file name means
// the default one, which need not exist. An unknown key is an error that names its line.
func LoadConfig(file string, getenv func(string) string) (Config, error) {
	c := DefaultConfig()
	optional := file == ""
	if optional {
		file = DefaultConfigFile
	}
	data, err := os.ReadFile(file)
	switch {
	case err == nil:
		dec := yaml.NewDecoder(bytes.NewReader(data))
		dec.KnownFields(true)
		if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
			return c, vmstate.Errorf(vmstate.Invalid, "cannot read %s: %w", file, err).
				With("docs/guide.md lists the keys")
		}
	case optional && errors.Is(err, os.ErrNotExist):
	default:
		return c, vmstate.Errorf(vmstate.Invalid, "cannot read the configuration: %w", err)
	}
	for name, field := range map[string]*string{
		"QLIVE_SOCKET": &c.Socket, "QLIVE_MOUNT": &c.Mount, "QLIVE_RUN_DIR": &c.RunDir, "QLIVE_STATE_DIR": &c.StateDir,
	} {
		if v := getenv(name); v != "" {
			*field = v
		}
	}
	return c, nil
}

// maxSocketPath is what fits into sockaddr_un without its final NUL (unix(7)).
const maxSocketPath = 107

// Check tells what is wrong with the configuration before anything is made.
func (c Config) Check() error {
	for key, path := range map[string]string{"socket": c.Socket, "run_dir": c.RunDir, "state_dir": c.StateDir, "mount": c.Mount} {
		if path == "none" && key == "mount" {
			continue
		}
		if !filepath.IsAbs(path) {
			return vmstate.Errorf(vmstate.Invalid, "cannot use %q as %s: it is not an absolute path", path, key)
		}
	}
	if c.Cgroup != "" && !filepath.IsLocal(c.Cgroup) {
		return vmstate.Errorf(vmstate.Invalid, "cannot use %q as cgroup: it is no path below the mount point of cgroup v2", c.Cgroup).
			With("write a relative path such as qlive, auto or none")
	}
	if len(c.Socket) > maxSocketPath {
		return vmstate.Errorf(vmstate.Invalid, "cannot listen on %s: the path of a unix socket has at most %d bytes, this one %d", c.Socket, maxSocketPath, len(c.Socket))
	}
	if c.Others > vmstate.RoleRead {
		return vmstate.Errorf(vmstate.Invalid, "cannot let others %s: everybody on the host would", c.Others).With("set others to none or read; use group for those who operate VMs")
	}
	if c.LogBytes < 0 {
		return vmstate.Errorf(vmstate.Invalid, "cannot keep %d bytes as log_bytes", c.LogBytes).With("leave it out for the default")
	}
	if err := c.Limits.Check(); err != nil {
		return err
	}
	if err := restapi.CheckTCP(c.Listen, c.TLS); err != nil {
		return err
	}
	for _, dir := range []string{c.RunDir, c.StateDir} {
		if c.Mount != "none" && (within(c.Mount, dir) || within(dir, c.Mount)) {
			return vmstate.Errorf(vmstate.Invalid, "cannot mount the tree on %s: it overlaps %s", c.Mount, dir).
				With("a daemon that opens files below its own mount hangs; move one of the two")
		}
	}
	return nil
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// vmDir is where everything of a VM that lives as long as the host lies.
func (c Config) vmDir(vm string) string { return filepath.Join(c.RunDir, "vms", vm) }

// eachVM stands for the VM's name in Config.User.
const eachVM = "{vm}"

// askingUser is whom binaries are asked as what they are: whom they will run as, and nobody in particular where each VM has a user of its own.
func (c Config) askingUser() string {
	if strings.Contains(c.User, eachVM) {
		return "nobody"
	}
	return c.User
}

// userOf is whom a VM's QEMUs run as.
func (c Config) userOf(vm string) string { return strings.ReplaceAll(c.User, eachVM, vm) }

// cgroup is the path below the mount point of cgroup v2, empty for none. Two daemons on one host have different ones unless they are told
// otherwise.
func (c Config) cgroup() string {
	switch {
	case c.Cgroup == "none":
		return ""
	case c.Cgroup != "auto":
		return c.Cgroup
	case c.RunDir == DefaultConfig().RunDir:
		return "qlive"
	}
	return "qlive" + strings.ReplaceAll(filepath.Clean(c.RunDir), "/", "-")
}

// beforeDir is where the last logs of a VM lie that has been started again since.
func (c Config) beforeDir(vm string) string { return filepath.Join(c.RunDir, "before", vm) }

// generationDir is the folder of one QEMU of a VM: every path that this QEMU makes is in it, because a QEMU removes its names when it
// ends, and two of them run side by side.
func (c Config) generationDir(vm string, generation int) string {
	return filepath.Join(c.vmDir(vm), fmt.Sprintf("g%d", generation))
}

package cmdline

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const whyConfig = "what is in the file stands in its place: the guest keeps these options for its life, whatever becomes of the file"

// Configs are the files that args name with -readconfig, each once. [Facts.Configs] has what is in them.
func Configs(args []string) []string {
	opts, err := parse(args)
	if err != nil {
		return nil
	}
	var paths []string
	for _, o := range opts {
		if o.name == "readconfig" && !slices.Contains(paths, o.value) {
			paths = append(paths, o.value)
		}
	}
	return paths
}

// Inline gives args with what is in the files of -readconfig in their place, for [ResolveMachine] and [Paths]. [Rewrite] does
// the same by itself.
func Inline(args []string, configs map[string]string) ([]string, error) {
	opts, err := parse(args)
	if err != nil {
		return nil, err
	}
	if opts, err = inline(opts, configs); err != nil {
		return nil, err
	}
	var all []string
	for _, o := range opts {
		if o.name == "readconfig" {
			continue
		}
		if all = append(all, o.token); o.hasVal {
			all = append(all, o.value)
		}
	}
	return all, nil
}

// inline puts the options of each file behind the -readconfig that names it, which stays to be dropped.
func inline(opts []option, configs map[string]string) ([]option, error) {
	var all []option
	extra := 0
	for _, o := range opts {
		all = append(all, o)
		text, ok := configs[o.value]
		if o.name != "readconfig" || !ok {
			continue
		}
		more, err := parseConfig(o, text)
		if err != nil {
			return nil, err
		}
		for _, m := range more {
			extra++
			m.at, m.from = -extra, o.value // no other option has that index
			all = append(all, m)
		}
	}
	return all, nil
}

// configOption is the option that stands for a group of the file; those that are not named here are called like their group.
func configOption(group string) (name string, ok bool) {
	switch group {
	case "memory":
		return "m", true
	case "smp-opts":
		return "smp", true
	case "boot-opts":
		return "boot", true
	}
	return group, slices.Contains([]string{"accel", "action", "chardev", "device", "drive", "fsdev", "global", "icount", "machine", "mon", "msg",
		"name", "netdev", "numa", "object", "overcommit", "rtc", "sandbox", "spice", "tpmdev", "trace"}, group)
}

var (
	configGroup = regexp.MustCompile(`^\[\s*([\w-]+)(?:\s+"([^"]*)")?\s*\]$`)
	configValue = regexp.MustCompile(`^([^\s=]+)\s*=\s*"([^"]*)"$`)
)

// parseConfig reads the options out of such a file, as qemu_config_parse (util/qemu-config.c) does: groups in brackets, perhaps with an
// id, and values in double quotes.
func parseConfig(o option, text string) ([]option, error) {
	var opts []option
	var parts []string
	finish := func() {
		if len(opts) > 0 {
			opts[len(opts)-1].value = strings.Join(parts, ",")
		}
		parts = nil
	}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if m := configGroup.FindStringSubmatch(line); m != nil {
			finish()
			name, ok := configOption(m[1])
			if !ok {
				return nil, refuse(o, fmt.Sprintf("in line %d qlive does not know the group %s", n, m[1]), "write what is in it on the command line")
			}
			opts = append(opts, option{name: name, token: "-" + name, hasVal: true, known: true})
			if m[2] != "" {
				parts = append(parts, "id="+escape(m[2]))
			}
			continue
		}
		m := configValue.FindStringSubmatch(line)
		if m == nil || len(opts) == 0 {
			return nil, invalid(o, fmt.Sprintf("line %d of the file is neither a group nor a value", n), `write [group "id"], and below it key = "value"`)
		}
		parts = append(parts, m[1]+"="+escape(m[2]))
	}
	finish()
	return slices.DeleteFunc(opts, func(o option) bool { return o.value == "" }), nil
}

// readconfig drops the option: what is in the file stands behind it.
func (r *rewriter) readconfig(o option) (edit, error) {
	if _, ok := r.facts.Configs[o.value]; !ok {
		return edit{}, refuse(o, "what is in the file is not known here", "write the options of the file on the command line")
	}
	return drop(whyConfig)
}
